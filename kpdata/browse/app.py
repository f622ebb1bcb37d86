"""People in the FiftyOne App: bring them in, show them, take the reviewer's tags back.

    from kpdata.browse.app import open_app

    with open_app(people) as app:
        print(app.url)
        app.wait()

FiftyOne shows; it does not measure: its OKS and its COCO import and export are wrong for keypoints.
"""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from kpdata.browse import embedded, ondisk, samples
from kpdata.browse.crops import Crops, Progress, cut_crops, remove_crops
from kpdata.browse.embedded import available as available
from kpdata.browse.interop import from_fiftyone as from_fiftyone
from kpdata.browse.interop import to_fiftyone as to_fiftyone
from kpdata.errors import BrowseError

if TYPE_CHECKING:
    from kpdata.browse.people import People

ACCEPT, REJECT = "accept", "reject"  # the tags of a review
_MARK = "kpdata"  # key of Dataset.info: this dataset is ours
_PANEL = "kpdata_keypoints"  # name of our panel in the App
_PATIENCE, _SETTLE = 180.0, 1.0  # s: for the server to answer, and for the session to tell it what to show
_OTHER_PORTS = 2  # to try, where none was asked for
_RETRIES = 20  # of changing the App's view while it is not connected yet, every half second


@dataclass(slots=True)
class App:
    """An App that runs. `with` closes it.

    name: of the dataset in FiftyOne. url: where a browser of this machine finds it. ssh: with `remote`, the line to
    type on the other machine; else "". imported: people brought in now; 0 where they were there already. notes:
    sentences. opened: a browser was asked to show it.
    """

    name: str
    url: str
    ssh: str = ""
    imported: int = 0
    notes: tuple[str, ...] = ()
    opened: bool = False
    _session: Any = field(default=None, repr=False)
    _dataset: Any = field(default=None, repr=False)
    _port: int = field(default=0, repr=False)
    _folder: Path = field(default=Path(), repr=False)
    _closed: bool = field(default=False, init=False)

    def wait(self) -> None:
        """Return when all its browser windows are closed (3 s later, so that a reload counts as none), or on Ctrl-C.

        Where no browser has been opened from here, a window may come at any time: until Ctrl-C.
        """
        try:
            self._session.wait(3 if self.opened else -1)
        except KeyboardInterrupt:
            self._session._disable_wait_warning = True

    def show(self, view: str | None) -> None:
        """Show a saved view in all windows; None: everybody. BrowseError: there is no such view."""
        dataset = self._dataset
        if view is not None and view not in dataset.list_saved_views():
            known = ", ".join(dataset.list_saved_views())
            raise BrowseError(f"no view {view!r} in {self.name!r}", hint=f"expected one of: {known}")
        chosen = dataset.view() if view is None else dataset.load_saved_view(view)
        for attempt in range(_RETRIES):
            try:
                self._session.view = chosen
                return
            except RuntimeError:  # "Client is not connected": the server is still busy
                if attempt == _RETRIES - 1:
                    raise
                time.sleep(0.5)

    def close(self) -> None:
        """Stop the App and its server; the dataset stays. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._session.close()
            embedded.give_back(self._port)
            embedded.let_go(self._folder, self.name)

    def __enter__(self) -> App:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_app(
    people: People,
    *,
    name: str | None = None,
    database: Path | str | None = None,
    port: int | None = None,
    remote: bool = False,
    view: str | None = None,
    browser: bool = True,
    progress: Progress | None = None,
) -> App:
    """Bring people into FiftyOne and open its App on 127.0.0.1.

    name: of the dataset in FiftyOne (`dataset_name(people)` unless told); what is there already is not imported again.
    database: the folder of FiftyOne's database and of the crops (`embedded.open_database`). port: None: a free one.
    remote: for a machine without a screen: opens no browser and gives the ssh line that brings the App here. view: the
    saved view to begin with. browser: open the system's browser; where there is none, `opened` is False.

    Raises MissingExtra without FiftyOne; BrowseError where its database is missing (`available` says what), for a name
    that another dataset has, a port that is taken, and a view that shows nobody.
    """
    if view is not None and view not in [known.name for known in people.views]:
        shown = ", ".join(known.name for known in people.views)
        raise BrowseError(f"no view {view!r} shows anybody here", hint=f"expected one of: {shown}")
    where = embedded.free_port(port)  # before the work: a port that is taken is said at once
    try:
        opened = embedded.open_database(database)
        dataset, imported, notes = import_people(people, opened, name=name, progress=progress)
        embedded.hold(opened.folder, dataset.name)
    except BaseException:
        embedded.give_back(where)
        raise
    try:
        session, where = _launched(opened.module, dataset, where, port is None)
    except BaseException:
        embedded.let_go(opened.folder, dataset.name)
        raise
    url = f"http://127.0.0.1:{where}/"  # with the dataset's own path FiftyOne would forget panel and view
    ssh = _ssh(where) if remote else ""
    app = App(
        dataset.name, url, ssh, imported, notes, _session=session, _dataset=dataset, _port=where, _folder=opened.folder
    )
    try:
        if view is not None:
            app.show(view)
        app.opened = browser and not remote and _open_browser(url)
    except BaseException:
        app.close()
        raise
    return app


def dataset_name(people: People) -> str:
    """The name in FiftyOne unless told: of the title and the data, so that other data never meet it."""
    title = "-".join(samples.sanitised([people.title])[0].split("_")) if people.title else "people"
    return f"{title[:60]}-{people.key[:8]}"


def pull_tags(name: str, database: Path | str | None = None) -> dict[str, Any]:
    """The review that the App's tags make: a document of the form of `review.json` (`kpdata.browse.review`).

    A person tagged "accept" or "reject" is decided so; tags are compared without regard to case. Of the others nothing
    is said. Raises BrowseError where there is no such dataset of ours, and for a person with both tags.
    """
    dataset = _ours(embedded.open_database(database).module, name)
    tagged = dataset.match_tags(sorted({tag for tag in dataset.distinct("tags") if tag.lower() in (ACCEPT, REJECT)}))
    names = ("tags", "annotation_id", "detection_id", "image_id", "skeleton")
    columns = [tagged.values(column) if dataset.has_field(column) else [None] * len(tagged) for column in names]
    decided = []
    for tags, annotation, detection, image, skeleton in zip(*columns, strict=True):
        said = {tag.lower() for tag in tags} & {ACCEPT, REJECT}
        if len(said) != 1:
            who = f"annotation {annotation}" if annotation is not None else f"prediction {detection}"
            problem = f"{name!r}: {who} in image {image} is tagged both {ACCEPT} and {REJECT}"
            raise BrowseError(problem, hint="take one of the two tags away in the App")
        ids = {"annotation_id": annotation, "image_id": image, "detection_id": detection, "skeleton": skeleton}
        decided.append({**ids, "decision": said.pop(), "keypoints": {}, "note": ""})
    return {"kpdata_review": 1, "key": dataset.info[_MARK]["key"], "people": decided}


def forget(name: str, database: Path | str | None = None) -> int:
    """Delete a dataset of ours from FiftyOne, with its crops; how many people it had.

    BrowseError: no such dataset, or an App shows it now.
    """
    opened = embedded.open_database(database)
    dataset = _ours(opened.module, name)
    if not embedded.hold(opened.folder, name, alone=True):
        raise BrowseError(f"{name!r} is shown by an App now: not deleted", hint="close that App first (Ctrl-C)")
    count = len(dataset)
    dataset.delete()
    remove_crops(_crops_folder(opened, name))
    return count


def datasets(database: Path | str | None = None) -> list[str]:
    """Names of the datasets of ours in FiftyOne, sorted."""
    return _our_names(embedded.open_database(database).module)


# -------------------------------------------------------------------------------------------------------- bringing in


def import_people(
    people: People, opened: embedded.Database, *, name: str | None = None, progress: Progress | None = None
) -> tuple[Any, int, tuple[str, ...]]:
    """(the dataset in FiftyOne, people imported, notes). Unchanged people are not imported; of changed ones tags stay.

    The dataset appears whole or not at all. BrowseError for a name that is somebody else's, or of other data.
    """
    fo, wanted = opened.module, name or dataset_name(people)
    content, old = samples.identity(people), None
    if wanted in fo.list_datasets():
        old = _replaceable(fo, wanted, people.key)
    crops = cut_crops(people.table, people.pictures, _crops_folder(opened, wanted), progress=progress)
    content = f"{content}-{ondisk.object_id(*map(str, crops.files))['$oid'][:8]}"
    if old is not None and old.info[_MARK]["content"] == content:
        return old, 0, crops.notes
    if old is not None and not embedded.hold(opened.folder, wanted, alone=True):
        problem = f"{wanted!r} is shown by another App now, and what it shows has changed since: not replaced"
        raise BrowseError(problem, hint="close that App first (Ctrl-C), or show this under another name with --name")
    staging = f"{wanted} (importing {time.time_ns()})"
    try:
        fresh = _fill(fo, people, crops, staging, content, {} if old is None else _tags(old), progress)
        _save_views(fresh, people)
        if old is not None:
            old.delete()
        fresh.name = wanted
        fresh.persistent = True
    except BaseException as error:
        if staging in fo.list_datasets():
            fo.delete_dataset(staging)
        if isinstance(error, ValueError):  # FiftyOne's word for a name that it does not take
            raise BrowseError(f"{wanted!r}: FiftyOne refuses the dataset ({error})", hint="--name: another") from error
        raise
    _remove_unused(opened, wanted, crops)
    return fresh, people.table.num_rows, crops.notes


def _fill(
    fo: Any,
    people: People,
    crops: Crops,
    name: str,
    content: str,
    tags: Mapping[tuple[Any, ...], list[str]],
    progress: Progress | None,
) -> Any:
    taken = [word for word in dir(fo.DynamicEmbeddedDocument) if not word.startswith("_")]
    fields = samples.fields_of(people, taken)
    mark = {"version": 1, "key": people.key, "content": content, "figures": _text(samples.figures(people, fields))}

    def describe(dataset: Any) -> None:
        dataset.info = {_MARK: mark}
        dataset.description = people.title or None
        dataset.skeletons, colours = {}, []
        for skeleton, labels in fields.labels.items():
            bones = people.skeletons[skeleton]
            edges = [list(edge) for edge in bones.edges] or None
            for label, field_name in labels.items():
                names = list(bones.keypoint_names)
                dataset.skeletons[field_name] = fo.KeypointSkeleton(labels=names, edges=edges)
                colours.append({"path": field_name, "fieldColor": samples.COLOURS[label]})
        dataset.app_config.color_scheme = fo.ColorScheme(
            color_by="field", multicolor_keypoints=False, show_skeletons=True, fields=colours
        )
        dataset.app_config.sidebar_groups = _sidebar(fo, fields)

    made = samples.documents(people, crops, fields, tags)
    sample = samples.template(fo, people, fields)
    count = people.table.num_rows
    words = {field_name: words for field_name, _, words in fields.facts}
    return ondisk.import_samples(
        fo, name, sample, made, count=count, describe=describe, descriptions=words, progress=progress
    )


def _text(figures: Mapping[str, Any]) -> str:
    """As text: MongoDB takes no keys with dots, and keypoints may have any name."""
    import json

    return json.dumps(figures)


def _sidebar(fo: Any, fields: samples.Fields) -> list[Any]:
    facts = [name for name, *_ in fields.facts]
    labels = [name for of in fields.labels.values() for name in of.values()]
    every = list(dict.fromkeys(name for names in fields.keypoints.values() for name in names))
    worst = [samples.WORST] if fields.predicted else []
    errors = [f"{samples.ERROR}.{name}" for name in every] if fields.predicted else []
    kinds = [f"{samples.KINDS}.{name}" for name in every]
    groups = [
        ("tags", ["tags"], True),
        ("skeletons", labels, True),
        ("person", [samples.RANK, *facts[:4], *worst, *facts[4:]], True),
        ("error of each keypoint, px", errors, False),
        ("kind of each keypoint", kinds, False),
        ("metadata", ["metadata.width", "metadata.height"], False),
    ]
    return [fo.SidebarGroupDocument(name=n, paths=paths, expanded=wide) for n, paths, wide in groups if paths]


def _save_views(dataset: Any, people: People) -> None:
    ids = np.array(dataset.values("id"), object)
    used: set[str] = set()
    for number, view in enumerate(people.views):
        ordered = bool((np.diff(view.rows) < 0).any())  # else by rank: quicker than to look each up in a list
        chosen = dataset.select(ids[view.rows].tolist(), ordered=ordered)
        chosen = chosen if ordered else chosen.sort_by(samples.RANK)
        slug = "".join(letter for letter in view.name.lower() if letter.isalnum())
        name = view.name if slug and slug not in used else f"{view.name} ({number})"
        used.add(slug)
        dataset.save_view(name, chosen, description=view.sentence)


def _tags(dataset: Any) -> dict[tuple[Any, ...], list[str]]:
    """The tags of a dataset that is to be replaced, by annotation, detection and image id."""
    tagged = dataset.match_tags(dataset.distinct("tags"))
    names = ("annotation_id", "detection_id", "image_id")
    columns = [tagged.values(name) if dataset.has_field(name) else [None] * len(tagged) for name in names]
    return dict(zip(zip(*columns, strict=True), tagged.values("tags"), strict=True))


def _replaceable(fo: Any, name: str, key: str) -> Any:
    """The dataset of that name where it is ours and of the same data; BrowseError where it is not."""
    dataset = fo.load_dataset(name)
    mark = dataset.info.get(_MARK)
    if not isinstance(mark, Mapping):
        raise BrowseError(f"{name!r}: FiftyOne has a dataset of that name that is not kpdata's", hint="--name: another")
    if mark["key"] != key:
        problem = f"{name!r}: FiftyOne shows other data under that name"
        raise BrowseError(problem, hint="--name: another; or --forget removes it, with its tags")
    return dataset


def _ours(fo: Any, name: str) -> Any:
    known = _our_names(fo)
    if name not in known:
        hint = f"there are: {', '.join(known)}" if known else "nothing has been browsed in this database yet"
        raise BrowseError(f"no dataset {name!r} of kpdata's in FiftyOne", hint=hint)
    return fo.load_dataset(name)


def _our_names(fo: Any) -> list[str]:
    return sorted(name for name in fo.list_datasets(info=False) if _MARK in fo.load_dataset(name).info)


def _crops_folder(opened: embedded.Database, name: str) -> Path:
    readable = samples.sanitised([name])[0][:60]
    return opened.folder / "crops" / f"{readable}-{ondisk.object_id(name)['$oid'][:8]}"


def _remove_unused(opened: embedded.Database, name: str, crops: Crops) -> None:
    """Crops of an earlier import that nothing shows any more."""
    used = set(crops.files)
    for file in _crops_folder(opened, name).glob("*.jpg"):
        if file not in used:
            file.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------ showing


def _launched(fo: Any, dataset: Any, port: int, another: bool) -> tuple[Any, int]:
    """A session and its port: that one, or where somebody was quicker there and `another` is allowed, a later one."""
    for left in reversed(range(_OTHER_PORTS + 1 if another else 1)):
        try:
            return _launch(fo, dataset, port), port
        except BrowseError:
            if not left:
                embedded.give_back(port)
                raise
        except BaseException:
            embedded.give_back(port)
            raise
        held, port = port, embedded.free_port()
        embedded.give_back(held)
    raise AssertionError("the last turn returns or raises")


def _launch(fo: Any, dataset: Any, port: int) -> Any:
    """A session of the App, without a browser. BrowseError where its server does not come up on that port."""
    panel = fo.Panel(type=_PANEL, pinned=True)
    grid = fo.Panel(type="Samples", pinned=True)
    spaces = fo.Space(
        orientation="horizontal",
        sizes=[0.62, 0.38],
        children=[
            fo.Space(children=[grid], active_child=grid.component_id),
            fo.Space(children=[panel], active_child=panel.component_id),
        ],
    )
    try:  # remote: FiftyOne opens no browser itself; we say whether there was one
        _serve(port)
        session = fo.launch_app(dataset, port=port, address="127.0.0.1", remote=True, spaces=spaces)
    except Exception as error:  # FiftyOne's ServiceListenTimeout, requests' and psutil's errors: no server
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise BrowseError(f"FiftyOne's App did not start on port {port} ({reason})", hint="--port: another") from error
    time.sleep(_SETTLE)
    return session


def _serve(port: int) -> None:
    """Start the App's server and wait until it answers. A session that comes before it waits 10 s longer than needed,
    says so on stdout, and shows no dataset to a browser that is quicker."""
    import importlib
    import urllib.request

    sessions = importlib.import_module("fiftyone.core.session.session")
    service = importlib.import_module("fiftyone.core.service")
    patient = type("Server", (service.ServerService,), {"_wait_for_child_port": _listening})
    server = patient(port, address="127.0.0.1", do_not_track=True)
    if server.child is None:  # it has found somebody else's App there, and would change what that shows
        raise OSError("another App is there")
    sessions._server_services[port] = server
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/fiftyone", timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _listening(server: Any, port: int) -> int:
    """Wait until a server that is being started listens: FiftyOne would give up after 60 s, which a busy machine takes,
    and would wait as long for one that has ended."""
    import importlib

    service = importlib.import_module("fiftyone.core.service")
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return int(service.ServerService._wait_for_child_port(server, port=port, timeout=1))
        except service.ServiceListenTimeout:
            if server.child.poll() is not None or time.monotonic() > end:
                raise


def _open_browser(url: str) -> bool:
    try:
        return webbrowser.open(url, new=2)
    except webbrowser.Error:
        return False


def _ssh(port: int) -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "USER"
    return f"ssh -N -L {port}:127.0.0.1:{port} {user}@{socket.gethostname()}"
