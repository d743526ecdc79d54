"""The files service: names, folders, uploads, moves, deletions."""

from __future__ import annotations

import random
import unicodedata
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.table import PutCell, Unavailable
from penncloud.services.blobs import CHUNK_BYTES, Blobs, UploadExpired
from penncloud.services.blobs._ownership import STALE_S
from penncloud.services.files import (
    ROOT,
    AlreadyStored,
    BadName,
    Changed,
    Entry,
    Files,
    Folder,
    Home,
    IntoItself,
    Item,
    NameTaken,
    NoSuchEntry,
    TooDeep,
    Upload,
    clean_name,
)
from penncloud.services.files._names import numbered
from tests.services.files_case import ROW, FilesCase

DAY_S = 86_400


class Names(SynchronousTestCase):
    def test_allowed(self) -> None:
        """Everything a file may be called elsewhere is kept as it is."""
        for name in (" ", "a b", ";%#?&", "日本語.txt", "…", ".hidden", "C:\\x", "<b>", "x" * 255):
            self.assertEqual(clean_name(name), name)

    def test_refused(self) -> None:
        """What cannot be addressed, or would deceive, is refused with a reason."""
        for name in (
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a\0b",
            "a\nb",
            "\x7f",
            "\ud800",
            "é" * 128,
            "\u202egpj.exe",
        ):
            with self.assertRaises(BadName) as caught:
                clean_name(name)
            self.assertTrue(str(caught.exception))

    def test_decomposed_names_are_composed(self) -> None:
        """The same letters are the same name, however they were typed."""
        self.assertEqual(clean_name(unicodedata.normalize("NFD", "Übung")), "Übung")

    def test_numbers(self) -> None:
        """A numbered name keeps its extension and its bounds."""
        self.assertEqual(numbered("report.pdf", 2), "report (2).pdf")
        self.assertEqual(numbered("README", 3), "README (3)")
        self.assertEqual(numbered(".profile", 2), ".profile (2)")
        long = numbered("é" * 125 + ".txt", 2)
        self.assertLessEqual(len(long.encode()), 255)
        self.assertTrue(long.endswith("é (2).txt"))


class Folders(FilesCase):
    def test_listing_order(self) -> None:
        """Folders come first, each kind by name without regard to case."""

        async def fill() -> None:
            for name in ("b", "Z", "a", "É"):
                await self.home.create_folder(ROOT, name)
            for name in ("y.txt", "X.txt", "w.txt"):
                await self.world.put(ROOT, name, b"")

        self.run_now(fill())
        names = [entry.name for entry in self.run_now(self.home.list(ROOT)).entries]
        self.assertEqual(names, ["a", "b", "Z", "É", "w.txt", "X.txt", "y.txt"])

    def test_names_are_unique_over_both_kinds(self) -> None:
        """A file and a folder of the same name cannot be in one folder; case matters."""
        self.run_now(self.home.create_folder(ROOT, "a"))
        self.run_now(self.home.create_folder(ROOT, "A"))
        self.fails(self.home.create_folder(ROOT, "a"), NameTaken)
        error = self.fails(self.world.put(ROOT, "a", b"x"), NameTaken)
        self.assertTrue(error.entry.is_folder)
        self.assertEqual(self.world.table.chunk_rows(), [])

    def test_paging(self) -> None:
        """Following the cursors gives every entry once."""

        async def fill() -> list[str]:
            for number in range(25):
                await self.home.create_folder(ROOT, f"{number:02}")
            seen, cursor = [], None
            while True:
                page = await self.home.list(ROOT, cursor, limit=10)
                seen += [entry.name for entry in page.entries]
                cursor = page.cursor
                if cursor is None:
                    return seen

        self.assertEqual(self.run_now(fill()), [f"{number:02}" for number in range(25)])
        self.fails(self.home.list(ROOT, "€"), NoSuchEntry)

    def test_paths(self) -> None:
        """A path leads to its folder or file, and only whole paths do."""
        a = self.run_now(self.home.create_folder(ROOT, "a"))
        b = self.run_now(self.home.create_folder(a.id, "b c"))
        self.run_now(self.world.put(b.id, "f", b"x"))
        found = self.run_now(self.home.resolve(["a", "b c"]))
        assert isinstance(found, Folder)
        self.assertEqual((found.id, found.names), (b.id, ("a", "b c")))
        self.assertEqual(self.run_now(self.home.folder(b.id)), found)
        self.assertIsInstance(self.run_now(self.home.resolve(["a", "b c", "f"])), Entry)
        for path in (["b c"], ["a", "x"], ["a", "b c", "f", "g"], ["a", ".."], [""]):
            self.fails(self.home.resolve(path), NoSuchEntry)
        for folder in ("", "nope", "../a", "a/b", "é", "x" * 2000):
            self.fails(self.home.folder(folder), NoSuchEntry)

    def test_depth_is_bounded(self) -> None:
        """Nesting ends with a clear refusal, for new and for moved folders."""

        async def nest() -> str:
            at = ROOT
            for _ in range(64):
                at = (await self.home.create_folder(at, "d")).id
            return at

        deepest = self.run_now(nest())
        self.fails(self.home.create_folder(deepest, "d"), TooDeep)
        self.run_now(self.home.create_folder(ROOT, "e"))
        self.fails(self.home.rename(Item(ROOT, "e"), "e", deepest), TooDeep)
        self.run_now(self.world.put(deepest, "file", b""))


class Uploads(FilesCase):
    def test_invisible_until_finished(self) -> None:
        """Nobody sees half a file, and an aborted one leaves nothing."""
        upload = self.run_now(self.home.upload(ROOT, "f"))
        self.run_now(upload.write(bytes(CHUNK_BYTES + 1)))
        self.assertEqual(self.run_now(self.home.list(ROOT)).entries, ())
        self.run_now(upload.abort())
        self.assertEqual(self.world.table.chunk_rows(), [])
        self.assertEqual(self.world.table.columns(ROW), [])

    def test_abort_after_finish_keeps_the_file(self) -> None:
        """A client that hangs up just after the end does not take the file away."""
        upload = self.run_now(self.home.upload(ROOT, "f"))
        self.run_now(upload.write(b"x"))
        entry = self.run_now(upload.finish())
        self.run_now(upload.abort())
        self.assertEqual(self.run_now(self.world.content(entry)), b"x")

    def test_replacing_needs_the_version(self) -> None:
        """Only the version that was seen is overwritten; the old content is collected."""
        first = self.run_now(self.world.put(ROOT, "f", b"one"))
        self.fails(self.world.put(ROOT, "f", b"two"), NameTaken)
        second = self.run_now(self.world.put(ROOT, "f", b"two", replace=first.version))
        self.assertEqual(second.id, first.id)
        error = self.fails(self.world.put(ROOT, "f", b"three", replace=first.version), Changed)
        self.assertEqual(error.entry, second)
        self.assertEqual(self.run_now(self.world.snapshot()), {"f": b"two"})
        self.world.time += 10_000
        self.run_now(self.world.files.collect("ann"))
        self.assertEqual(len(self.world.table.chunk_rows()), 1)
        self.assertEqual(self.run_now(self.world.snapshot()), {"f": b"two"})

    def test_keep_both(self) -> None:
        """A taken name gets the first free number."""
        for data in (b"1", b"2", b"3"):
            self.run_now(self.world.put(ROOT, "f.x", data, keep_both=True))
        self.assertEqual(
            self.run_now(self.world.snapshot()), {"f.x": b"1", "f (2).x": b"2", "f (3).x": b"3"}
        )

    def test_two_uploads_of_one_name(self) -> None:
        """Of two tabs that upload the same name the second one to finish is refused."""
        first = self.run_now(self.home.upload(ROOT, "f"))
        second = self.run_now(self.home.upload(ROOT, "f"))
        self.run_now(second.write(b"2"))
        self.run_now(second.finish())
        self.run_now(first.write(b"1"))
        self.fails(first.finish(), NameTaken)
        self.run_now(first.abort())
        self.assertEqual(self.run_now(self.world.snapshot()), {"f": b"2"})
        self.assertEqual(len(self.world.table.chunk_rows()), 1)

    def test_the_folder_moves_meanwhile(self) -> None:
        """An upload follows its folder, and is refused when it was deleted, however far above."""
        a = self.run_now(self.home.create_folder(ROOT, "a"))
        b = self.run_now(self.home.create_folder(a.id, "b"))
        upload = self.run_now(self.home.upload(b.id, "f"))
        self.run_now(self.home.rename(Item(ROOT, "a"), "z"))
        self.run_now(upload.finish())
        self.assertEqual(self.run_now(self.world.snapshot()), {"z": {"b": {"f": b""}}})
        late = self.run_now(self.home.upload(b.id, "g"))
        self.run_now(self.home.delete([Item(ROOT, "z")]))
        self.fails(late.finish(), NoSuchEntry)
        self.fails(self.home.create_folder(b.id, "x"), NoSuchEntry)
        self.fails(self.home.upload(b.id, "x"), NoSuchEntry)

    def test_a_swept_upload_says_so(self) -> None:
        """An upload that stood still for a day cannot become a file with holes."""
        upload = self.run_now(self.home.upload(ROOT, "f"))
        self.run_now(upload.write(bytes(CHUNK_BYTES)))
        self.world.time += STALE_S
        self.run_now(self.world.files.collect("ann"))
        self.fails(upload.finish(), UploadExpired)
        self.assertEqual(self.run_now(self.world.snapshot()), {})

    def test_a_lost_answer_at_the_end(self) -> None:
        """When the outcome of the last step is unknown, aborting keeps what became visible."""
        upload = self.run_now(self.home.upload(ROOT, "f"))
        self.run_now(upload.write(b"x"))
        self.world.table.calls_left, self.world.table.fails_after_doing = 1, True
        self.fails(upload.finish(), Unavailable)
        self.world.table.calls_left = None
        self.run_now(upload.abort())
        self.assertEqual(self.run_now(self.world.snapshot()), {"f": b"x"})


class UploadsSentAgain(FilesCase):
    """An upload is finished, and somebody does not learn of it."""

    ID = "0123456789abcdef"

    def setUp(self) -> None:
        super().setUp()
        world = self.world
        blobs = Blobs(world.table, random.Random(7).randbytes)
        environment = evolve(world.environment, entropy=random.Random(8).randbytes)
        self.elsewhere = Files(world.table, blobs, environment).home("ann")

    def ways(self) -> list[dict[str, Any]]:
        """The ways of storing a file: a new one, beside another one, over another one."""
        self.setUp()
        taken = self.run_now(self.world.put(ROOT, "f", b"old"))
        return [
            {"name": "new"},
            {"name": "f", "keep_both": True},
            {"name": "f", "replace": taken.version},
        ]

    def begin(self, home: Home, way: dict[str, Any], data: bytes = b"x") -> Upload:
        upload = self.run_now(home.upload(ROOT, **way, upload_id=self.ID))
        self.run_now(upload.write(data))
        return upload

    def check_one(self, way: int, first: Entry, second: Entry) -> None:
        """Both are the file that is there, and nothing is left of a second one."""
        self.assertEqual(first, second)
        one = [{"f": b"old", "new": b"x"}, {"f": b"old", "f (2)": b"x"}, {"f": b"x"}][way]
        self.assertEqual(self.run_now(self.world.snapshot()), one)
        self.world.time += DAY_S / 2
        self.run_now(self.world.files.collect("ann"))
        self.assertEqual(len(self.world.table.chunk_rows()), len(one))

    def test_finished_twice(self) -> None:
        """The second time has the outcome of the first, also when its answer was lost."""
        for way in range(3):
            for is_lost in (False, True):
                kind = self.ways()[way]
                upload = self.begin(self.home, kind)
                if is_lost:
                    self.world.table.calls_left, self.world.table.fails_after_doing = 1, True
                    self.fails(upload.finish(), Unavailable)
                    self.world.table.calls_left = None
                first = self.run_now(upload.finish())
                self.check_one(way, first, self.run_now(upload.finish()))

    def test_begun_again_elsewhere(self) -> None:
        """Another frontend tells of the file before a byte is sent, and whatever became of it since."""
        for number in range(3):
            way = self.ways()[number]
            first = self.run_now(self.begin(self.home, way).finish())
            again = self.fails(self.elsewhere.upload(ROOT, **way, upload_id=self.ID), AlreadyStored)
            self.check_one(number, first, again.entry)
            self.run_now(self.home.rename(Item(ROOT, first.name), "elsewhere"))
            again = self.fails(self.elsewhere.upload(ROOT, **way, upload_id=self.ID), AlreadyStored)
            self.assertEqual(again.entry, first)

    def test_two_frontends_at_the_same_time(self) -> None:
        """The first attempt is still at it while the second one is made; whatever their steps, one file."""
        for way in range(3):
            for steps in range(16):
                kind = self.ways()[way]
                one = self.begin(self.home, kind)
                two = self.begin(self.elsewhere, kind)
                first, second = self.world.table.interleaved(ROW, one.finish, steps, two.finish)
                self.check_one(way, self.successResultOf(first), self.successResultOf(second))

    def test_another_upload_is_another_file(self) -> None:
        """What bears another id is stored beside the first, however alike they are."""
        for _ in range(2):
            self.run_now(self.world.put(ROOT, "f", b"x", keep_both=True))
        self.assertEqual(self.run_now(self.world.snapshot()), {"f": b"x", "f (2)": b"x"})

    def test_the_same_form(self) -> None:
        """Of a form that is sent again only what is not the same is stored once more."""

        async def send(name: str, data: bytes) -> None:
            upload = await self.home.upload(ROOT, name, keep_both=True)
            await upload.write(data)
            await upload.finish(form="token")

        for name, data in (("f", b"1"), ("f", b"1"), ("f", b"2"), ("g", b"1"), ("f", b"2")):
            self.run_now(send(name, data))
        self.assertEqual(self.run_now(self.world.snapshot()), {"f": b"1", "f (2)": b"2", "g": b"1"})
        self.assertEqual(len(self.world.table.chunk_rows()), 3)

    def test_known_for_days_by_any_clock(self) -> None:
        """An upload is known again a day later and by a frontend a day behind; its mark goes in the end."""
        self.run_now(self.begin(self.home, {"name": "f"}).finish())
        for days in (1, -2):
            self.world.time += days * DAY_S
            self.run_now(self.world.files.collect("ann"))
            self.assertIsNotNone(self.run_now(self.elsewhere.uploaded(self.ID)))
        for _ in range(250):
            self.run_now(self.world.put(ROOT, "many", b"", keep_both=False, replace=self.seen()))
        self.world.time += 5 * DAY_S
        self.run_now(self.world.files.collect("ann"))
        self.assertIsNone(self.run_now(self.home.uploaded(self.ID)))
        self.assertEqual(len(self.world.table.columns(ROW)), 2)

    def seen(self) -> int | None:
        """The version of the file `many`, if it is there."""
        found = self.run_now(self.home.find(ROOT, "many"))
        return None if found is None else found.version


class Moves(FilesCase):
    def test_a_folder_moves_whole(self) -> None:
        """Moving a folder takes everything below it along, in one mutation."""
        a = self.run_now(self.home.create_folder(ROOT, "a"))
        b = self.run_now(self.home.create_folder(ROOT, "b"))
        self.run_now(self.world.put(a.id, "f", b"x"))
        before = self.world.table._version
        self.run_now(self.home.move([Item(ROOT, "a")], b.id))
        self.assertEqual(self.world.table._version, before + 1)
        self.assertEqual(self.run_now(self.world.snapshot()), {"b": {"a": {"f": b"x"}}})
        self.assertEqual(self.run_now(self.home.folder(a.id)).names, ("b", "a"))

    def test_not_into_itself(self) -> None:
        """No cycle, neither direct nor through a folder below."""
        a = self.run_now(self.home.create_folder(ROOT, "a"))
        b = self.run_now(self.home.create_folder(a.id, "b"))
        for target in (a.id, b.id):
            self.fails(self.home.rename(Item(ROOT, "a"), "a", target), IntoItself)

    def test_crossing_moves_make_no_cycle(self) -> None:
        """a into b while b goes into a: one of them is refused, whatever the timing."""
        for first_steps in range(12):
            self.setUp()
            a = self.run_now(self.home.create_folder(ROOT, "a"))
            b = self.run_now(self.home.create_folder(ROOT, "b"))
            one, two = self.world.table.interleaved(
                ROW,
                partial(self.home.move, [Item(ROOT, "a")], b.id),
                first_steps,
                partial(self.home.move, [Item(ROOT, "b")], a.id),
            )
            outcomes = [self.successResultOf(one), self.successResultOf(two)]
            self.assertEqual(sorted(len(each.refused) for each in outcomes), [0, 1])
            self.assertIn(self.run_now(self.world.snapshot()), ({"b": {"a": {}}}, {"a": {"b": {}}}))

    def test_rename(self) -> None:
        """A new name, also one that differs in case only; the same name is no change."""
        entry = self.run_now(self.world.put(ROOT, "f", b"x"))
        renamed = self.run_now(self.home.rename(Item(ROOT, "f", entry.version), "F"))
        self.assertEqual((renamed.name, renamed.id), ("F", entry.id))
        self.assertEqual(self.run_now(self.home.rename(Item(ROOT, "F"), "F")), renamed)
        self.fails(self.home.rename(Item(ROOT, "F", entry.version), "G"), Changed)
        self.fails(self.home.rename(Item(ROOT, "f"), "G"), NoSuchEntry)
        self.fails(self.home.rename(Item(ROOT, "F"), "a/b"), BadName)
        self.assertEqual(self.run_now(self.world.snapshot()), {"F": b"x"})

    def test_many_items(self) -> None:
        """What can be moved is moved; the rest is reported and stays. More than one batch works."""

        async def fill() -> str:
            for number in range(100):
                await self.world.put(ROOT, str(number), b"")
            folder = await self.home.create_folder(ROOT, "t")
            await self.world.put(folder.id, "7", b"there")
            return folder.id

        target = self.run_now(fill())
        items = [Item(ROOT, str(number)) for number in range(101)]
        outcome = self.run_now(self.home.move([*items, *items[:3]], target))
        self.assertEqual(len(outcome.done), 99)
        refused = {item.name: type(error) for item, error in outcome.refused}
        self.assertEqual(refused["7"], NameTaken)
        self.assertEqual(refused["100"], NoSuchEntry)
        self.assertEqual(set(self.run_now(self.world.snapshot())), {"t", "7"})

    def test_same_name_from_two_folders(self) -> None:
        """Two items that would collide in the target: the first one wins, nothing is lost."""
        a = self.run_now(self.home.create_folder(ROOT, "a"))
        b = self.run_now(self.home.create_folder(ROOT, "b"))
        self.run_now(self.world.put(a.id, "f", b"1"))
        self.run_now(self.world.put(b.id, "f", b"2"))
        outcome = self.run_now(self.home.move([Item(a.id, "f"), Item(b.id, "f")], ROOT))
        self.assertIsInstance(outcome.refused[0][1], NameTaken)
        self.assertEqual(
            self.run_now(self.world.snapshot()), {"a": {}, "b": {"f": b"2"}, "f": b"1"}
        )


class Deletions(FilesCase):
    def test_a_tree_goes_at_once_and_is_cleared_later(self) -> None:
        """A deleted folder is gone for readers; the sweep removes every cell and chunk of it."""

        async def fill() -> None:
            for outer in range(3):
                folder = await self.home.create_folder(top.id, str(outer))
                for inner in range(60):
                    await self.world.put(folder.id, str(inner), b"x")

        top = self.run_now(self.home.create_folder(ROOT, "top"))
        self.run_now(fill())
        before = self.world.table._version
        self.run_now(self.home.delete([Item(ROOT, "top")]))
        self.assertEqual(self.world.table._version, before + 1)
        self.assertEqual(self.run_now(self.world.snapshot()), {})
        self.fails(self.home.folder(top.id), NoSuchEntry)
        self.run_now(self.world.files.collect("ann"))
        self.world.time += 5 * DAY_S
        self.run_now(self.world.files.collect("ann"))
        self.assertEqual(self.world.table.chunk_rows(), [])
        self.assertEqual(self.world.table.columns(ROW), [b"tree"])

    def test_clearing_resumes_after_a_crash(self) -> None:
        """Wherever clearing dies, the next sweep finishes it."""
        for calls in range(8):
            self.setUp()
            top = self.run_now(self.home.create_folder(ROOT, "top"))
            for name in ("a", "b"):
                folder = self.run_now(self.home.create_folder(top.id, name))
                self.run_now(self.world.put(folder.id, "f", b"x"))
            self.run_now(self.home.delete([Item(ROOT, "top")]))
            self.world.table.calls_left = calls
            died = Deferred.fromCoroutine(self.home.clear())
            died.addErrback(lambda failure: failure.trap(Unavailable))
            self.world.table.calls_left = None
            self.run_now(self.world.files.collect("ann"))
            self.world.time += 5 * DAY_S
            self.run_now(self.world.files.collect("ann"))
            self.assertEqual(self.world.table.columns(ROW), [b"tree"])
            self.assertEqual(self.world.table.chunk_rows(), [])

    def test_a_changed_file_is_not_deleted(self) -> None:
        """A tab that shows an old version does not delete the new one unseen."""
        old = self.run_now(self.world.put(ROOT, "f", b"1"))
        self.run_now(self.world.put(ROOT, "f", b"2", replace=old.version))
        outcome = self.run_now(self.home.delete([Item(ROOT, "f", old.version)]))
        self.assertIsInstance(outcome.refused[0][1], Changed)
        self.assertEqual(self.run_now(self.world.snapshot()), {"f": b"2"})

    def test_deleted_content_can_still_be_read_for_a_while(self) -> None:
        """A download that is under way survives the deletion."""
        entry = self.run_now(self.world.put(ROOT, "f", b"1"))
        self.run_now(self.home.delete([Item(ROOT, "f")]))
        self.run_now(self.world.files.collect("ann"))
        self.assertEqual(self.run_now(self.world.content(entry)), b"1")

    def test_users_are_apart(self) -> None:
        """One user's tree is not another's."""
        self.run_now(self.world.put(ROOT, "f", b"1"))
        other = self.world.files.home("bob")
        self.assertEqual(self.run_now(other.list(ROOT)).entries, ())

    def test_endless_contention_ends(self) -> None:
        """When the tree changes under every attempt the caller is told to try again."""
        table = self.world.table
        table.hold = lambda row: row == ROW
        making = Deferred.fromCoroutine(self.home.create_folder(ROOT, "a"))
        steps = 0
        while table.held:
            steps += 1
            self.assertLess(steps, 100)
            table.hold = lambda row: False
            self.run_now(table.mutate(ROW, [PutCell(b"tree", b"x")]))
            table.hold = lambda row: row == ROW
            table.release()
        self.assertTrue(self.failureResultOf(making).value.retryable)
