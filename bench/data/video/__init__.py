"""Videos of recordings: frames read by their number, safe on damaged files; small or lossless ones written."""

from bench.data.video.read import VideoCache, VideoFile
from bench.data.video.write import CODECS, Codec, encode

__all__ = ["CODECS", "Codec", "VideoCache", "VideoFile", "encode"]
