"""The stage-wise campaign: from a Federation to its FederationRounds."""
