"""Adoption as in PEFT: `MPOConfig`, `get_mpo_model`, and files that hold only what is trained."""
