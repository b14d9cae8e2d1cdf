"""VGGT, the feed-forward geometry transformer that stage 1 stands on, at any size (Wang et al., CVPR 2025).

An independent implementation with the parameter names and shapes of the published weights, so that
``facebook/VGGT-1B`` loads into the ``paper`` size; the small sizes are trained from scratch.
"""
