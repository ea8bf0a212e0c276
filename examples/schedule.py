"""A schedule is a callable with exact integrals and a text form."""

import torch

import thalweg as tw

schedule = tw.schedules.wsd(3e-3, 1000, warmup=100, decay=0.2)
print(schedule, "integral", round(schedule.integral(0, 1000), 6), "phases", tuple(schedule.phases))

weight = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.AdamW([weight], lr=3e-3)
scheduler = schedule.to_torch(optimizer)
for _step in range(500):
    optimizer.step()
    scheduler.step()
assert optimizer.param_groups[0]["lr"] == schedule(500) == 3e-3  # bit for bit, over the whole run
assert tw.schedules.parse(str(schedule)) == schedule
