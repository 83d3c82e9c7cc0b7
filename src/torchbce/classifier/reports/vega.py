"""The scripts that a browser needs to draw charts of Vega-Lite, in one text.

vl-convert has Vega, Vega-Lite and vega-embed in its package, and joins them in 2 s of CPU time. The
result depends on its version alone, and is kept in the user's folder of caches.
"""

import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from torchbce.classifier.outputs import temporary


def scripts() -> str:
    """Vega, Vega-Lite and vega-embed, as `vegaEmbed` of the window."""
    path = _cache() / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")
        if text.endswith(_END):
            return text
    import vl_convert

    # Inside a page "</script" would end the script, also in a string.
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub has no default
    text = bundle.replace("</script", "<\\/script") + _END
    with suppress(OSError):  # a cache that cannot be written costs time only
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        with temporary(partial):
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
    return text


#: A file without this end was not written completely.
_END = "\n// end\n"


def _cache() -> Path:
    """The folder of caches, as the XDG Base Directory Specification names it."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "torchbce"
