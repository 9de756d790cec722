"""``--mount type=image``: the contents of another image, read-only, at a place in a container.

The storage driver has a layer for each, as it has one for the container, on which nobody writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pyengine.contracts.storage import StorageDriver
from pyengine.engine import names
from pyengine.engine.calls import DriverCalls
from pyengine.engine.model import Container
from pyengine.errors import InvalidParameter, NotFound

if TYPE_CHECKING:
    from pyengine.engine.images.service import Images


async def prepare(
    container: Container, images: Images, storage: StorageDriver, calls: DriverCalls
) -> None:
    """Make the layers of the images that ``container`` mounts, which its mounts name from then on.
    ``InvalidParameter`` for an image that is not here; layers made before an error stay."""
    for point in container.mounts:
        if point.type != "image" or point.spec is None:
            continue
        try:
            image = images.get(point.spec.source)
        except NotFound as error:
            # "Not found" would tell the client to pull the container's own image.
            raise InvalidParameter(error.brief) from None
        with images.using(image.id):
            parent = await images.layer(image.id, storage.name)
            layer = names.new_id()
            await calls(storage.prepare, layer, parent, {})
        point.layer, point.base = layer, image.chain[-1] if image.chain else ""
        point.source = storage.metadata(layer).get("MergedDir", "")
        # By its id, since a name can go to another image.
        point.spec = msgspec.structs.replace(point.spec, source=image.id)
