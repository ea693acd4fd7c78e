"""Images into tensors: sets of labeled images and their splits, batches, preprocessing. The names load when first used."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
