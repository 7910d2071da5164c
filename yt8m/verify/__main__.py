"""Check every record of a dataset: `python -m yt8m.verify dataset=yt8m_video dataset.root=~/data/yt8m`."""

from yt8m.cli import command

main = command("verify", "yt8m.verify.verify:verify")

if __name__ == "__main__":
    main()
