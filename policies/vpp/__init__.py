"""VPP: a policy that acts on what a video model expects to see next."""
