"""What a report is made of: runs read from their folders, their comparison, and the page that shows it."""
