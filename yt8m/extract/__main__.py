"""Extract the dataset's features from videos: `python -m yt8m.extract videos=GLOB output=DIR weights=DIR`."""

from yt8m.cli import command

main = command("extract", "yt8m.extract.extract:extract")

if __name__ == "__main__":
    main()
