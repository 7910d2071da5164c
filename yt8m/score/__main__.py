"""Score a submission: `python -m yt8m.score submission=FILE.csv labels='3/frame/validate/*.tfrecord'`."""

from yt8m.cli import command

main = command("score", "yt8m.score.score:score")

if __name__ == "__main__":
    main()
