"""Before: fit a law on finished runs, then rank schedules for a run that nobody has trained."""

import thalweg as tw
from thalweg.experiments.small_runs import TABLE  # 178 real runs of small GPTs; your own CSV goes here

runs = tw.runs.read(TABLE)
law = tw.laws.OptLaw.fit(runs)
print(law.summary())

budget = tw.Budget(params=135_808, tokens=1500 * 1024, batch_tokens=1024)
plan = tw.plan(
    law,
    budget,
    [
        "cosine(0.004, 1500, warmup=225)",
        "wsd(0.004, 1500, warmup=225, decay=0.2)",
        "wsd(0.001, 1500, warmup=225, decay=0.2)",
    ],
)
print(plan.summary())
