"""Tests of edgetl/runtime/preprocess.py."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgetl.errors import DataError
from edgetl.records import Border, Fit, ImageArray, Preprocess
from edgetl.runtime.preprocess import fit_photo, open_photo, paint_border, preprocess

MEAN = (10, 20, 30)


def how(fit: Fit = "squash", side: int = 8, **more: Any) -> Preprocess:
    return Preprocess(side=side, fit=fit, mean=MEAN, std=(58.0, 57.0, 57.0), **more)


def encode(photo: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    photo.save(file, file_format, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def quarters() -> Image.Image:
    """Return 16x8 pixels: the left half red, the right half blue."""
    photo = Image.new("RGB", (16, 8), "blue")
    photo.paste("red", (0, 0, 8, 8))
    return photo


class TestFormats:
    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
    def test_pixels_of_exact_formats_are_unchanged(self, file_format: str) -> None:
        photo = noise(12, 9)
        assert np.array_equal(open_photo(encode(photo, file_format)), photo)

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
    def test_every_format_is_read_from_bytes_path_and_text(self, file_format: str, tmp_path: Path) -> None:
        data = encode(Image.new("RGB", (12, 9), (200, 30, 30)), file_format)
        path = tmp_path / "photo.bin"
        path.write_bytes(data)
        for source in (data, path, str(path)):
            photo = open_photo(source)
            assert (photo.mode, photo.size) == ("RGB", (12, 9))
            assert np.abs(np.asarray(photo, dtype=int) - (200, 30, 30)).max() <= 6

    def test_a_jpeg_with_a_preview_is_read_as_its_first_picture(self) -> None:
        red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (8, 8), "blue")
        photo = open_photo(encode(red, "MPO", save_all=True, append_images=[blue]))
        assert photo.size == (16, 16)
        assert photo.getpixel((8, 8)) == (254, 0, 0)

    def test_a_cmyk_jpeg_is_converted(self) -> None:
        photo = open_photo(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
        assert np.abs(np.asarray(photo, dtype=int) - (255, 0, 0)).max() <= 3

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    def test_16_bit_grey_is_scaled_to_8_bits(self, file_format: str) -> None:
        grey = np.array([[0, 257, 128 * 257, 128 * 257 + 128, 128 * 257 + 129, 65535]], dtype=np.uint16)
        photo = np.asarray(open_photo(encode(Image.fromarray(grey), file_format)))
        assert photo[0, :, 0].tolist() == [0, 1, 128, 128, 129, 255]
        assert (photo[..., 0] == photo[..., 1]).all() and (photo[..., 0] == photo[..., 2]).all()

    def test_8_bit_grey_becomes_rgb(self) -> None:
        assert open_photo(encode(Image.new("L", (4, 4), 77), "PNG")).getpixel((0, 0)) == (77, 77, 77)

    def test_transparency_is_laid_over_white(self) -> None:
        photo = open_photo(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "PNG"))
        assert photo.getpixel((0, 0)) == (204, 204, 204)

    @pytest.mark.parametrize("file_format", ["PNG", "GIF"])
    def test_a_transparent_colour_of_a_palette_is_laid_over_white(self, file_format: str) -> None:
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([255, 0, 0, 0, 255, 0])
        palette.putpixel((1, 0), 1)
        photo = open_photo(encode(palette, file_format, transparency=0))
        assert photo.getpixel((0, 0)) == (255, 255, 255)
        assert photo.getpixel((1, 0)) == (0, 255, 0)

    def test_a_transparent_colour_without_a_palette_is_laid_over_white(self) -> None:
        photo = Image.new("RGB", (4, 4), (255, 0, 0))
        assert open_photo(encode(photo, "PNG", transparency=(255, 0, 0))).getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_photo_is_turned_upright_by_its_exif_orientation(self, orientation: int) -> None:
        upright = Image.new("RGB", (32, 16), "blue")
        upright.paste("red", (0, 0, 16, 16))
        upright.paste("white", (0, 0, 8, 8))
        turns: dict[int, list[Image.Transpose]] = {
            1: [],
            2: [Image.Transpose.FLIP_LEFT_RIGHT],
            3: [Image.Transpose.ROTATE_180],
            4: [Image.Transpose.FLIP_TOP_BOTTOM],
            5: [Image.Transpose.TRANSPOSE],
            6: [Image.Transpose.ROTATE_90],
            7: [Image.Transpose.TRANSVERSE],
            8: [Image.Transpose.ROTATE_270],
        }
        stored = upright
        for turn in turns[orientation]:
            stored = stored.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        for file_format in ("JPEG", "PNG"):
            options = {"subsampling": 0, "quality": 95} if file_format == "JPEG" else {}
            photo = open_photo(encode(stored, file_format, exif=exif, **options))
            assert photo.size == upright.size
            assert np.abs(np.asarray(photo, dtype=int) - np.asarray(upright, dtype=int)).max() <= 8

    def test_a_pillow_image_is_made_rgb_and_its_own_pixels_are_kept(self) -> None:
        photo = noise(5, 4)
        assert np.array_equal(open_photo(photo), photo)
        assert open_photo(Image.new("L", (5, 4), 9)).getpixel((0, 0)) == (9, 9, 9)

    def test_an_array_is_taken_as_rgb(self) -> None:
        pixels = np.asarray(noise(5, 4))
        assert np.array_equal(open_photo(pixels), pixels)

    def test_every_second_column_of_an_array_is_an_array_too(self) -> None:
        pixels = np.asarray(noise(10, 4))[:, ::2]
        assert np.array_equal(open_photo(pixels), pixels)


class TestRefusals:
    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone\.jpg: no such file"):
            open_photo(tmp_path / "gone.jpg")

    def test_a_folder_is_no_photo(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"a folder, but a photo is needed"):
            open_photo(tmp_path)

    def test_a_text_called_jpg_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "text.jpg").write_text("I am a text")
        with pytest.raises(DataError, match=r"text\.jpg: not a picture in a format that is read \(JPEG, "):
            open_photo(tmp_path / "text.jpg")

    @pytest.mark.parametrize("data", [b"", b"x", b"\xff\xd8\xff"])
    def test_bytes_that_are_no_picture_are_the_image_sent(self, data: bytes) -> None:
        with pytest.raises(DataError, match="the image sent: not a picture in a format that is read"):
            open_photo(data)

    @pytest.mark.parametrize("file_format", ["PPM", "ICO", "PDF"])
    def test_a_format_that_is_not_listed_is_refused(self, file_format: str) -> None:
        with pytest.raises(DataError, match="not a picture in a format that is read"):
            open_photo(encode(noise(16, 16), file_format))

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
    def test_a_truncated_file_is_refused(self, file_format: str) -> None:
        data = encode(noise(32, 32), file_format)
        with pytest.raises(DataError, match=r"the image sent: (cannot be decoded|not a picture)"):
            open_photo(data[: len(data) * 2 // 3])

    @pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_what_holds_several_frames_is_refused(self, file_format: str) -> None:
        data = encode(noise(8, 8), file_format, save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
        with pytest.raises(DataError, match=r"holds 2 frames, but a still picture is needed\. Save the frame you mean"):
            open_photo(data)

    def test_a_photo_with_too_many_pixels_is_refused_by_its_header(self) -> None:
        data = encode(Image.new("1", (9000, 9000)), "PNG")
        with pytest.raises(DataError, match=r"9000x9000 is 81 megapixels, but at most 80 are read\. Make it smaller"):
            open_photo(data[:100])

    def test_how_many_pixels_are_read_can_be_said(self) -> None:
        data = encode(Image.new("1", (600, 500)), "PNG")
        assert open_photo(data, max_pixels=300_000).size == (600, 500)
        with pytest.raises(DataError, match="600x500 is 0 megapixels, but at most 0 are read"):
            open_photo(data, max_pixels=299_999)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
    def test_damaged_exif_says_nothing_of_the_photo(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encode(noise(8, 16), "JPEG", exif=exif)
        start = data.index(b"Exif\0\0") + 6
        junk = data[: start + 8] + b"\xff" * 10 + data[start + 18 :]
        assert open_photo(junk).size in {(8, 16), (16, 8)}

    def test_what_pillow_takes_for_a_bomb_is_refused(self) -> None:
        # The header alone is changed to 60000x60000 pixels; its checksum is made to fit.
        data = bytearray(encode(noise(8, 8), "PNG"))
        data[16:24] = (60000).to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        with pytest.raises(DataError, match="the image sent: cannot be decoded: Image size"):
            open_photo(bytes(data))

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4, 3), np.float32),
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_an_array_of_another_type_or_shape_is_refused(self, array: ImageArray) -> None:
        message = r"must be uint8 RGB of shape \(height, width, 3\), found (uint8|float32) \([\d, ]+\)"
        with pytest.raises(DataError, match=message):
            open_photo(array)

    @pytest.mark.parametrize("source", [3, None, ["a.jpg"]])
    def test_what_is_no_photo_at_all_is_refused(self, source: object) -> None:
        with pytest.raises(DataError, match=rf"found {type(source).__name__}$"):
            open_photo(source)  # type: ignore[arg-type]

    def test_a_tiff_that_leads_to_a_page_without_a_size_is_refused(self) -> None:
        data = bytearray(encode(noise(8, 8), "TIFF"))
        directory = int.from_bytes(data[4:8], "little")
        entries = int.from_bytes(data[directory : directory + 2], "little")
        # The link to the next page, zero in a file of one page, follows the entries of 12 bytes each.
        link = directory + 2 + 12 * entries
        data[link : link + 4] = len(data).to_bytes(4, "little")
        with pytest.raises(DataError, match="the image sent: cannot be decoded: Missing dimensions"):
            open_photo(bytes(data) + bytes(64))

    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_pixels_without_an_agreed_range_are_refused(self, dtype: type) -> None:
        photo = Image.fromarray(np.ones((4, 4), dtype))
        message = r"pixels of mode [IF] have no agreed range\. Save the picture with 8 or 16 bits a channel"
        for source in (photo, encode(photo, "TIFF")):
            with pytest.raises(DataError, match=message):
                open_photo(source)

    @given(st.binary(max_size=60), st.integers(0, 400), st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF"]))
    def test_damaged_bytes_end_as_a_photo_or_a_data_error(self, damage: bytes, where: int, file_format: str) -> None:
        data = encode(noise(12, 9), file_format)
        try:
            assert open_photo(data[:where] + damage + data[where + len(damage) :]).mode == "RGB"
        except DataError as error:
            assert str(error).startswith("the image sent: ")


class TestFit:
    @pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
    @pytest.mark.parametrize("size", [(40, 30), (30, 40), (3, 50), (50, 3), (1, 1), (8, 8)])
    def test_every_photo_fits_the_square(self, fit: Fit, size: tuple[int, int]) -> None:
        image = fit_photo(noise(*size), how(fit))
        assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)

    @pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
    def test_a_photo_of_the_size_of_the_square_is_unchanged(self, fit: Fit) -> None:
        photo = noise(8, 8)
        assert np.array_equal(fit_photo(photo, how(fit)), photo)

    def test_squash_keeps_all_of_the_photo(self) -> None:
        image = fit_photo(quarters(), how("squash"))
        assert (image[:, 0] == (255, 0, 0)).all() and (image[:, -1] == (0, 0, 255)).all()

    def test_crop_keeps_the_central_square(self) -> None:
        photo = noise(16, 8)
        assert np.array_equal(fit_photo(photo, how("crop")), np.asarray(photo)[:, 4:12])
        photo = noise(8, 16)
        assert np.array_equal(fit_photo(photo, how("crop")), np.asarray(photo)[4:12])

    def test_the_crop_share_is_of_the_short_side(self) -> None:
        photo = noise(32, 16)
        assert np.array_equal(fit_photo(photo, how("crop", crop_share=0.5)), np.asarray(photo)[4:12, 12:20])

    def test_crop_in_one_step_is_as_resizing_first(self) -> None:
        gradient = np.linspace(0, 255, 320, dtype=np.uint8)
        photo = Image.fromarray(np.broadcast_to(gradient[None, :, None], (160, 320, 3)).copy())
        one = fit_photo(photo, how("crop", side=32)).astype(int)
        two = np.asarray(photo.resize((64, 32), Image.Resampling.BILINEAR).crop((16, 0, 48, 32)), dtype=int)
        assert np.abs(one - two)[:, 1:-1].max() <= 1

    def test_pad_keeps_the_shape_and_fills_with_the_mean(self) -> None:
        image = fit_photo(quarters(), how("pad"))
        assert (image[:2] == MEAN).all() and (image[6:] == MEAN).all()
        assert (image[2:6, 0] == (255, 0, 0)).all() and (image[2:6, 7] == (0, 0, 255)).all()

    def test_pad_of_an_upright_photo_fills_left_and_right(self) -> None:
        image = fit_photo(Image.new("RGB", (8, 16), "red"), how("pad"))
        assert (image[:, :2] == MEAN).all() and (image[:, 6:] == MEAN).all() and (image[:, 2:6] == (255, 0, 0)).all()


class TestBorder:
    BORDER = Border(top=1, left=2, bottom=3, right=4)

    def test_the_border_is_painted_in_the_mean_around_the_image(self) -> None:
        image = np.asarray(noise(8, 8))
        painted = paint_border(image, how(border=self.BORDER))
        assert painted.shape == (12, 14, 3)
        assert np.array_equal(painted[1:9, 2:10], image)
        painted[1:9, 2:10] = MEAN
        assert (painted == MEAN).all()

    def test_without_a_border_the_image_is_returned_as_it_is(self) -> None:
        image = np.asarray(noise(8, 8))
        assert paint_border(image, how()) is image

    def test_preprocess_fits_and_paints(self) -> None:
        settings = how("crop", border=self.BORDER)
        photo = noise(20, 10)
        assert np.array_equal(preprocess(photo, settings), paint_border(fit_photo(photo, settings), settings))
        assert preprocess(photo, settings).shape == (settings.height, settings.width, 3)


def test_the_pixels_of_a_real_photo_are_those_of_pillow(assets: Path) -> None:
    photos = sorted((assets / "data" / "trashnet").glob("*/*1.jpg"))[:5]
    if not photos:
        pytest.skip(f"needs the photos of TrashNet: none in {assets / 'data' / 'trashnet'}")
    for path in photos:
        with Image.open(path) as photo:
            assert np.array_equal(open_photo(path), photo.convert("RGB"))
