"""MnasNet for Keras 3: models, checkpoints, and the tools around them.

Importing the package loads neither TensorFlow nor Keras; the names do, when they are first used. They are listed in
`__init__.pyi`.
"""

import lazy_loader as lazy

from keras_mnasnet._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
