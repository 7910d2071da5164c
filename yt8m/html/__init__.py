"""One base template and one style sheet for every HTML page the commands write."""
