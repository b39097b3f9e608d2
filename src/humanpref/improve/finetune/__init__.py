"""Reward fine-tuning: a LoRA on a diffusers UNet or transformer, towards what a scorer or people prefer."""
