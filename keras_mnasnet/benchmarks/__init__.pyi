from .accuracy import AccuracyResult as AccuracyResult
from .accuracy import evaluate as evaluate
from .emulator import PhoneFit as PhoneFit
from .speed import LatencyReport as LatencyReport
from .speed import ModelLatency as ModelLatency
from .speed import calibrate as calibrate
from .speed import latency as latency
