"""With roots, no row of a manifest leads outside them: not by its text, a link, or the content of its file."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from decoders_here import each_decoder
from videos import write_video

from w3ray.cli import main
from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.manifest import Manifest, build_manifest, write_manifest
from w3ray.data.roots import check_roots, outside
from w3ray.errors import InputError
from w3ray.recipe import load_recipe


def manifest(uris: list[str], location: str = "/data/m.parquet") -> Manifest:
    count = len(uris)
    columns = {
        "clip_id": [f"c{i}" for i in range(count)],
        "uri": uris,
        "label": [0] * count,
        "split": ["train"] * count,
    }
    return build_manifest(columns, ["x"], location=location)


class TestText:
    @pytest.mark.parametrize(
        ("uri", "roots"),
        [
            ("a.mp4", ["/data"]),
            ("deep/er/a.mp4", ["/data/"]),
            ("/data/..a/b..mp4", ["/data"]),
            ("/data/x/../a.mp4", ["/data"]),
            ("/data//a.mp4", ["/data"]),
            ("/data/100%.mp4", ["/data"]),
            ("file:///data/a.mp4", ["/data"]),
            ("/data/a.mp4", ["file:///data"]),
            ("FILE:///data/a.mp4", ["/data"]),
            ("/else/a.mp4", ["/data", "/else"]),
            ("/any/a.mp4", ["/"]),
            ("s3://bucket/clips/a.mp4", ["s3://bucket/clips"]),
            ("S3://bucket/clips/a.mp4", ["s3://bucket/clips/"]),
            ("s3://bucket/clips/a%20b.mp4", ["s3://bucket"]),
            ("s3://bucket/a.mp4?region=x", ["s3://bucket?region=x"]),
            ("https://host/clips/a.mp4?token=1", ["https://host/clips"]),
        ],
    )
    def test_inside(self, uri: str, roots: list[str]) -> None:
        check_roots(manifest([uri]), roots)
        assert not outside(uri if "/" in uri and not uri.startswith("deep") else f"/data/{uri}", roots)

    @pytest.mark.parametrize(
        ("uri", "roots"),
        [
            ("../a.mp4", ["/data"]),
            ("x/../../a.mp4", ["/data"]),
            ("/data/../etc/passwd", ["/data"]),
            ("/database/a.mp4", ["/data"]),
            ("/data", ["/data"]),
            ("/etc/passwd", ["/data"]),
            ("file:///etc/passwd", ["/data"]),
            ("file:///data/../etc/passwd", ["/data"]),
            ("file://localhost/etc/passwd", ["/data"]),
            ("FiLe:///etc/passwd", ["/data"]),
            ("local:///data/a.mp4", ["/data"]),
            ("s3://data/a.mp4", ["/data"]),
            ("/data/a.mp4", ["s3://data"]),
            ("s3://bucket/../other/a.mp4", ["s3://bucket"]),
            ("s3://bucket/clips/../a.mp4", ["s3://bucket/clips"]),
            ("s3://bucket/clips/%2e%2e/a.mp4", ["s3://bucket/clips"]),
            ("s3://bucket/clips/%252e%252e/a.mp4", ["s3://bucket/clips"]),
            ("s3://bucket/clips/..%2fa.mp4", ["s3://bucket/clips"]),
            ("s3://bucket/clips/.%2E/a.mp4", ["s3://bucket/clips"]),
            ("s3://bucket/clips/..\\..\\a.mp4", ["s3://bucket/clips"]),
            ("s3://bucket//clips/a.mp4", ["s3://bucket/clips"]),
            ("s3://bucket/clipsy/a.mp4", ["s3://bucket/clips"]),
            ("s3://bucket/clips/a.mp4?endpoint_override=evil", ["s3://bucket/clips"]),
            ("s3://bucket/clips/a.zip::file:///etc/passwd", ["s3://bucket/clips"]),
            ("simplecache::s3://bucket/clips/a.mp4", ["s3://bucket/clips"]),
            ("gs://bucket/clips/a.mp4", ["s3://bucket/clips"]),
            ("http://host@evil/clips/a.mp4", ["http://host/clips"]),
            ("http://host.evil/clips/a.mp4", ["http://host"]),
            ("http://host\\@evil/a.mp4", ["http://host"]),
            ("concat:/data/a.mp4|/etc/passwd", ["/else"]),
            ("subfile,,start,0,end,9,,:/etc/passwd", ["/else"]),
        ],
    )
    def test_outside(self, uri: str, roots: list[str]) -> None:
        rows = manifest(["/data/good.mp4", uri, "/data/good.mp4", uri])
        with pytest.raises(InputError) as caught:
            check_roots(rows, roots)
        assert "'c1'" in str(caught.value) or "'c0'" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    def test_the_first_and_how_many(self) -> None:
        rows = manifest(["a.mp4", "../b.mp4", "/c.mp4", "x/../d.mp4"])
        text = r"m.parquet: 2 of 4 videos lie outside the roots /data; first /data/\.\./b.mp4 of clip 'c1'"
        with pytest.raises(InputError, match=text):
            check_roots(rows, ["/data"])

    def test_none_is_anywhere(self) -> None:
        check_roots(manifest(["../a.mp4", "s3://x/y"]), None)
        assert not outside("/etc/passwd", None)

    @pytest.mark.parametrize("root", ["s3://", "s3://bucket/../other", "s3://b/%2e", "s3://b//c"])
    def test_a_root_must_be_plain(self, root: str) -> None:
        with pytest.raises(InputError, match="not a plain address"):
            check_roots(manifest(["a.mp4"]), [root])

    def test_many_rows_are_not_looked_at_one_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A manifest may have ten million rows. Only unusual rows may cost time in Python."""
        from w3ray.data import roots

        looked = []
        inside = roots._inside
        monkeypatch.setattr(roots, "_inside", lambda uri, known: looked.append(str(uri)) or inside(str(uri), known))
        table = manifest(["a.mp4"]).table
        rows = 200_000
        uris = pa.array(np.char.add(np.arange(rows).astype("U"), "/clip.mp4").tolist())
        uris = pa.concat_arrays([uris, pa.array(["x/../a.mp4"])])
        columns = {"clip_id": pa.array(range(rows + 1)).cast(pa.string()), "uri": uris}
        many = pa.table(
            [columns.get(name, pa.repeat(table[name][0], rows + 1)) for name in table.column_names], schema=table.schema
        )
        check_roots(Manifest(many, ("x",), {}, "/data/m.parquet"), ["/data"])
        assert looked == ["/data/x/../a.mp4"]


class TestFiles:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        write_video(tmp_path / "secret" / "a.mp4", 20)
        write_video(tmp_path / "root" / "good.mp4", 20)
        (tmp_path / "root" / "link.mp4").symlink_to(tmp_path / "secret" / "a.mp4")
        (tmp_path / "root" / "folder").symlink_to(tmp_path / "secret")
        (tmp_path / "other").symlink_to(tmp_path / "root")
        return tmp_path

    @each_decoder
    @pytest.mark.parametrize("name", ["link.mp4", "folder/a.mp4"])
    def test_links_that_lead_out_are_not_opened(self, place: Path, decoder: str, name: str) -> None:
        roots = [str(place / "root")]
        uri = str(place / "root" / name)
        check_roots(manifest([uri]), roots)
        for written in (uri, f"file://{uri}"):
            with pytest.raises(DecodeError, match="a link that leads outside the roots"):
                load_clip(
                    written, label=0, spec=ClipSpec(num_frames=2, size=32, decoder=decoder), rng=None, roots=roots
                )
        with open_video(uri, decoder):
            pass  # without roots it is a normal video

    @each_decoder
    def test_a_root_that_is_a_link(self, place: Path, decoder: str) -> None:
        for root, folder in (("root", "other"), ("other", "root"), ("other", "other")):
            uri = str(place / folder / "good.mp4")
            spec = ClipSpec(num_frames=2, size=32, decoder=decoder)
            if (root, folder) == ("root", "other"):
                with pytest.raises(InputError):  # its text names another folder
                    check_roots(manifest([uri]), [str(place / root)])
            else:
                check_roots(manifest([uri]), [str(place / root)])
                load_clip(uri, label=0, spec=spec, rng=None, roots=[str(place / root)])

    def test_data_check_says_so_and_starts_nothing(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = place / "root" / "m.parquet"
        write_manifest(manifest([str(place / "root" / "good.mp4"), str(place / "secret" / "a.mp4")]), path)
        assert main(["data", "check", str(path), "--root", str(place / "root"), "--json"]) == 2
        said = json.loads(capsys.readouterr().out)["error"]["message"]
        assert "1 of 2 videos lie outside the roots" in said
        assert "secret/a.mp4 of clip 'c1'" in said

    def test_a_recipe_says_so_and_starts_nothing(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from w3ray.pipeline.prepare import prepare_data

        path = place / "root" / "m.parquet"
        write_manifest(manifest([str(place / "secret" / "a.mp4")]), path)
        recipe = load_recipe("tank-state", [f"data.manifest={path}", f"data.roots=[{place / 'root'}]"])
        with pytest.raises(InputError, match="1 of 1 videos lie outside"):
            prepare_data(recipe)

    def test_roots_are_no_part_of_a_recipes_identity(self) -> None:
        open_, closed = load_recipe("tank-state"), load_recipe("tank-state", ["data.roots=[/data]"])
        assert open_.fingerprint() == closed.fingerprint()
        with pytest.raises(InputError, match="'roots' is only for the videos of a manifest"):
            load_recipe("quickstart", ["data.roots=[/data]"])


class TestLists:
    """FFmpeg decides by content: if a file looks like a playlist, FFmpeg opens the files that it names."""

    SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    DASH = (
        '<MPD type="static" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet><Representation>'
        "<BaseURL>{mp4}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )
    HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\n{ts}\n#EXT-X-ENDLIST\n"
    TEXTS = (
        HLS, HLS.replace("{ts}", "http://127.0.0.1:9/x.ts"), "ffconcat version 1.0\nfile secret/a.mp4\n", DASH, SDP,
        '<?xml version="1.0"?>' + DASH, "# VobSub index file, v7\n", "ID3\x04\0\0\0\0\0\0" + HLS, "\x01" + DASH,
        "\x1aE\xdf\xa3\x01" + DASH, "RIFFxxxxAVI LIST" + DASH, "GIF89a" + SDP, "\ufeff" + HLS, "x" * 188 + "G" + DASH,
    )  # fmt: skip

    @each_decoder
    @pytest.mark.parametrize("text", TEXTS)
    @pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.ffconcat", "a.mpd", "a.sdp"])
    def test_are_not_followed(self, tmp_path: Path, decoder: str, text: str, name: str) -> None:
        secret = tmp_path / "secret"
        write_video(secret / "a.mp4", 20)
        write_video(secret / "a.ts", 20)
        path = tmp_path / name
        path.write_bytes(text.format(mp4=secret / "a.mp4", ts=secret / "a.ts").encode("latin-1", "ignore"))
        with pytest.raises(DecodeError, match=r"not a video|no video stream"):
            open_video(str(path), decoder)

    def test_one_that_ffmpeg_itself_would_follow(self, tmp_path: Path) -> None:
        """FFmpeg really follows them, so the tests above test something."""
        import av

        write_video(tmp_path / "a.ts", 20)
        path = tmp_path / "a.m3u8"
        path.write_text(self.HLS.format(ts=tmp_path / "a.ts"))
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 20

    @each_decoder
    def test_from_memory(self, decoder: str) -> None:
        import fsspec

        with fsspec.open("memory://lists/a.mp4", "wb") as file:
            file.write(self.HLS.encode())
        with pytest.raises(DecodeError, match="not a video"):
            open_video("memory://lists/a.mp4", decoder)

    @each_decoder
    def test_numbered_pictures(self, tmp_path: Path, decoder: str) -> None:
        """FFmpeg could read the name as a pattern. It must mean only this one file."""
        for number in range(1, 4):
            (tmp_path / f"a{number}.gif").write_bytes(b"GIF89a\0")
        write_video(tmp_path / "good.mp4", 20).rename(tmp_path / "a%d.gif")
        with open_video(str(tmp_path / "a%d.gif"), decoder) as video:
            assert video.info.num_frames == 20

    @each_decoder
    @pytest.mark.parametrize(
        ("name", "codec"),
        [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.ts", "libx264"),
         ("a.mov", "libx264"), ("a.flv", "flv"), ("a.mpg", "mpeg1video"), ("a.ogv", "libvpx"), ("a.wmv", "wmv2"),
         ("a.m2ts", "libx264"), ("a.mxf", "mpeg2video"), ("a.3gp", "mpeg4"), ("a.m4v", "mpeg4")],
    )  # fmt: skip
    def test_real_containers_are_let_through(self, tmp_path: Path, decoder: str, name: str, codec: str) -> None:
        from w3ray.data.decoders._container import check_container

        write_video(tmp_path / name, 20, codec=codec)
        check_container(str(tmp_path / name), name)
