"""Tables, figures and pages made from a finished run; they read the record and compute nothing."""

from bench.report.gallery import GalleryClip as GalleryClip
from bench.report.several import write_curve as write_curve
from bench.report.several import write_speed as write_speed
from bench.report.write import write_report as write_report
