"""One probe in other people's training loops: one file a host, the same rows as in a plain loop.

    huggingface.ProbeCallback       transformers.Trainer
    lightning.ProbeCallback         lightning.Trainer
    accelerate.accelerate_probe     a loop of your own with accelerate.Accelerator

A host is imported when its file is; none comes with thalweg: `pip install "thalweg[hf]"` or `"thalweg[lightning]"`.
"""
