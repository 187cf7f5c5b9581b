"""`python -m lepton_kit` is the `lepton` command."""

from lepton_kit.command import main

main()
