"""Writes LIF files, of Leica's microscopes, as far as readers need them."""

import struct

AXIS_NUMBERS = {"X": 1, "Y": 2, "Z": 3, "T": 4}
CHANNEL = (
    '<ChannelDescription DataType="0" ChannelTag="0" Resolution="{bits}" NameOfMeasuredQuantity="" Min="0" Max="1" '
    'Unit="" LUTName="Green" IsLUTInverted="0" BytesInc="0" BitInc="0"/>'
)
DIMENSION = (
    '<DimensionDescription DimID="{number}" NumberOfElements="{size}" Origin="0" Length="{length:g}" Unit="m" '
    'BitInc="0" BytesInc="{stride}"/>'
)
IMAGE = (
    '<Element Name="{title}" Visibility="1" UniqueID="{i}"><Data><Image TextDescription=""><ImageDescription>'
    "<Channels>{channel}</Channels><Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
    '<Memory Size="{size}" MemoryBlockID="MemBlock_{i}"/><Children/></Element>'
)
FILE = (
    '<LMSDataContainerHeader Version="2"><Element Name="experiment" Visibility="1" UniqueID="root"><Data><Experiment/>'
    '</Data><Memory Size="0" MemoryBlockID="MemBlock_x"/><Children>{images}</Children></Element>'
    "</LMSDataContainerHeader>"
)


def write_lif(path, images, *, voxel_size=1e-7):
    """Write images, each a title, its axes such as ``"ZYX"`` and its array; the voxel size is in m."""
    described, blocks = [], []
    for i, (title, axes, array) in enumerate(images):
        sides = reversed([*zip(axes, array.shape, array.strides, strict=True)])
        dimensions = "".join(
            DIMENSION.format(number=AXIS_NUMBERS[axis], size=size, length=(size - 1) * voxel_size, stride=stride)
            for axis, size, stride in sides
        )
        channel = CHANNEL.format(bits=8 * array.dtype.itemsize)
        described.append(IMAGE.format(i=i, title=title, channel=channel, dimensions=dimensions, size=array.nbytes))
        blocks.append((f"MemBlock_{i}", array.tobytes()))
    xml = FILE.format(images="".join(described))
    with open(path, "wb") as file:
        file.write(struct.pack("<IIBI", 0x70, 2 * len(xml) + 5, 0x2A, len(xml)) + xml.encode("utf-16-le"))
        for name, data in blocks:
            file.write(struct.pack("<IIBQBI", 0x70, 2 * len(name) + 14, 0x2A, len(data), 0x2A, len(name)))
            file.write(name.encode("utf-16-le") + data)
    return path
