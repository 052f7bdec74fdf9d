"""What a round means, apart from where it runs: consent, Job configurations, publication. Pure, no torch."""
