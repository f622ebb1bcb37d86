"""The one thing that pyproject.toml cannot say: an extension that may fail to build (kpdata works without it)."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kpdata.converters._scan",
            ["kpdata/converters/_scan.c"],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,
        )
    ]
)
