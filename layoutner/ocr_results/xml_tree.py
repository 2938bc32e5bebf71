"""XML files that other people made, as a tree of elements: bounded, without entities, without anything fetched."""

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from layoutner.errors import DataError
from layoutner.files.text import LARGEST_PAGE, read_bytes

DEEPEST = 100  # maximum nesting of elements; ALTO has 7
MOST_ELEMENTS = 2_000_000  # a page of a newspaper has tens of thousands


def read_xml(path: Path) -> Element:
    """The root element of an XML file, in any encoding that its declaration names. Names have no namespace prefix.

    Raises:
        DataError: the file cannot be read, is not well-formed, declares entities, or is too large or too deep.
    """
    content = read_bytes(path, LARGEST_PAGE)
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    open_elements = elements = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal open_elements, elements
        open_elements, elements = open_elements + 1, elements + 1
        if open_elements > DEEPEST:
            raise DataError(f"{path}: elements are nested more than {DEEPEST} deep")
        if elements > MOST_ELEMENTS:
            raise DataError(f"{path}: holds more than {MOST_ELEMENTS:,} elements")
        builder.start(_local(name), {_local(key): value for key, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal open_elements
        open_elements -= 1
        builder.end(_local(name))

    def entity(name: str, *_declaration: object) -> None:
        raise DataError(f"{path}: declares the entity {name[:40]!r}; remove the declaration, entities are not read")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not XML: {error}") from None


def _local(name: str) -> str:
    return name.rpartition(":")[2]
