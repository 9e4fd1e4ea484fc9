"""The experiments of Jaderberg et al. 2015, trained by one engine: ``tstn train``, ``tstn reproduce``."""
