"""During: measure how close each step is to instability. Training is bit-identical with and without the probe."""

import torch
from torch import nn

import thalweg as tw

torch.manual_seed(0)
x, y = torch.randn(256, 20), torch.randint(0, 3, (256,))
loader = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)]
model = nn.Sequential(nn.Linear(20, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

with tw.probe(model, optimizer, every=20) as probe:
    for _epoch in range(20):
        for batch in probe.watch(loader):  # remembers the batch that made the step
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()

print(probe.history.summary())
for row in probe.history.rows[:3]:
    print(row["step"], f"margin {row['stability/margin']:.1f}, critical lr {row['lr/critical']:.2e}")
