"""The one thing that pyproject.toml cannot say: extensions that may fail to build (kpdata works without them)."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(name, [f"{name.replace('.', '/')}.c"], extra_compile_args=["-O3"], py_limited_api=True, optional=True)
        for name in ("kpdata.converters._scan", "kpdata.eval._kernels")
    ]
)
