"""Plot a dataset: `python -m yt8m.explore dataset=yt8m_video dataset.root=~/data/yt8m`."""

from yt8m.cli import command

main = command("explore", "yt8m.explore.explore:explore")

if __name__ == "__main__":
    main()
