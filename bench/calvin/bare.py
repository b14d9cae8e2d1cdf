"""URDF files without pictures: what a world needs that draws nothing with PyBullet.

PyBullet keeps every visual mesh in memory for its own renderers (60 MB for a Panda) and reads it again at each load;
where a link has none it takes the collision meshes.  A world that the GL renderer draws does without: here each link
shows a box, whose only use is to hold the link's colour.  ``GlRenderer`` reads the meshes from the file itself.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

_BOX = '<visual><geometry><box size="0.01 0.01 0.01"/></geometry></visual>'


@functools.cache
def scratch_folder() -> Path:
    """Make this process's own folder for files that PyBullet reads; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="wristworld-scene-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def bare_urdf(urdf: Path) -> Path:
    """Return a URDF like ``urdf`` for contact, joints and masses, whose links show boxes; made at the first call."""
    tree = ElementTree.parse(urdf)
    for link in tree.getroot().iter("link"):
        for visual in link.findall("visual"):
            link.remove(visual)
        if link.find("collision") is not None:
            link.append(ElementTree.fromstring(_BOX))
    for mesh in tree.getroot().iter("mesh"):
        mesh.set("filename", str((urdf.parent / mesh.get("filename", "").removeprefix("package://")).resolve()))
    folder = Path(tempfile.mkdtemp(prefix="bare-", dir=scratch_folder()))
    tree.write(folder / urdf.name)
    return folder / urdf.name
