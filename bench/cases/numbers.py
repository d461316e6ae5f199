"""Number formats of inputs, weights and products: their names, bytes and roundoff. No torch."""

# Each format's name in torch, without "torch."; all other tables list the formats in this order.
TORCH_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
DTYPES = tuple(TORCH_NAMES)
ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
# The precisions of fp32 products; 16-bit formats have "none".
PRECISIONS = ("ieee", "tf32", "tf32x3", "none")
# The unit roundoff u of a format, and of a tf32 product's operands: half the spacing at 1.
ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "tf32": 2.0**-11}
# The products whose peak rate a device is measured for, as `product_format` names them.
PRODUCTS = ("bf16", "fp16", "ieee", "tf32", "tf32x3")


def number_type(dtype: str, precision: str) -> str:
    """A dtype as one word; of fp32, with the precision of its products.

    >>> number_type("bf16", "none"), number_type("fp32", "tf32"), number_type("fp32", "ieee")
    ('bf16', 'fp32:tf32', 'fp32:ieee')
    """
    return f"{dtype}:{precision}" if dtype == "fp32" else dtype


def split_number_type(name: str) -> tuple[str, str]:
    """The dtype and precision of such a word; without a precision, the dtype's default.

    >>> split_number_type("bf16"), split_number_type("fp32"), split_number_type("fp32:tf32")
    (('bf16', 'none'), ('fp32', 'ieee'), ('fp32', 'tf32'))
    """
    dtype, _, precision = name.partition(":")
    return dtype, precision or ("ieee" if dtype == "fp32" else "none")


def product_format(dtype: str, precision: str) -> str:
    """The format of a product's operands; 16-bit numbers are multiplied as they are.

    >>> product_format("bf16", "none"), product_format("fp32", "tf32")
    ('bf16', 'tf32')
    """
    return precision if dtype == "fp32" else dtype


def kernel_format(dtype: str, precision: str) -> tuple[str, str]:
    """A dtype and precision as ``kernels`` names them.

    >>> kernel_format("bf16", "none"), kernel_format("fp32", "tf32")
    (('bfloat16', 'ieee'), ('float32', 'tf32'))
    """
    return TORCH_NAMES[dtype], "ieee" if precision == "none" else precision


def product_roundoff(dtype: str, precision: str) -> float:
    """The unit roundoff of a product's operands; tf32x3 and ieee keep those of fp32."""
    return ROUNDOFF["tf32" if precision == "tf32" else dtype]
