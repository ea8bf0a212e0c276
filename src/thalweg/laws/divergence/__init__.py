"""Divergence: will a run go up in smoke? The criterion of the Opt-Laws, a logistic regression, and how they are judged."""
