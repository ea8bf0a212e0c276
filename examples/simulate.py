"""Why: SGD noise moves runs into the flatter of two valleys before the barrier between them has grown."""

import thalweg as tw

sim = tw.simulate(tw.sde.TwoValley(), lr=0.05, noise=[0.005, 0.02, 0.05], runs=500, steps=5000, seed=0)
for noise, share, error in zip(sim.noise, sim.p_flat[0], sim.p_flat_se[0], strict=True):
    print(f"noise {noise:g}: {share:.2f} ± {error:.2f} of the runs end in the flat valley")
