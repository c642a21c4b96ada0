"""GCG: adversarial suffixes found by gradients (Zou et al., arXiv 2307.15043)."""
