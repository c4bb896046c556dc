"""The size of folders, modules and lines of documents."""

from collections import Counter

from tests.house.source import PACKAGES, documents, modules, place

LARGEST_FOLDER = 12  # modules; a further one means that the folder holds two things
LONGEST_MODULE = 400  # lines
LONGEST_EXCEPTION = 460
EXCEPTIONS: dict[str, str] = {}  # module: why it is one thing that cannot be cut; two at most
LONGEST_TEST_MODULE = 700
LONGEST_LINE = 120  # of Markdown, outside of tables and code


def test_a_folder_holds_few_modules() -> None:
    folders = Counter(path.parent for path in modules(*PACKAGES) if path.name != "__init__.py")
    assert {place(folder): n for folder, n in folders.items() if n > LARGEST_FOLDER} == {}


def test_the_packages_re_export_nothing() -> None:
    assert [place(path) for path in modules(*PACKAGES) if path.name == "__init__.py" and path.read_text()] == []


def test_modules_are_short() -> None:
    length = {place(path): len(path.read_text().splitlines()) for path in modules(*PACKAGES)}
    assert {name: n for name, n in length.items() if n > LONGEST_MODULE and name not in EXCEPTIONS} == {}
    assert len(EXCEPTIONS) <= 2
    for name in EXCEPTIONS:
        assert LONGEST_MODULE < length[name] <= LONGEST_EXCEPTION, f"{name} needs no exception, or is too long for one"


def test_modules_of_tests_are_short() -> None:
    length = {place(path): len(path.read_text().splitlines()) for path in modules("tests", "benchmarks")}
    assert {name: n for name, n in length.items() if n > LONGEST_TEST_MODULE} == {}


def test_lines_of_documents_are_short() -> None:
    long = []
    for path in documents():
        code = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code ^= line.lstrip().startswith("```")
            outside = not code and not line.startswith(("|", "    "))
            if outside and len(line) > LONGEST_LINE:
                long.append(f"{place(path)}:{number}")
    assert long == []
