"""Real prices, cut by time as notebook 01 does, for the tests of models."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd


def google_prices() -> pd.DataFrame:
    """Google's prices, 60 % train, 20 % validation, 20 % test, with an embargoed day after each border."""
    data = np.load(Path(mpl.get_data_path()) / "sample_data" / "goog.npz")["price_data"]
    table = pd.DataFrame({column: data[column] for column in data.dtype.names})
    share = np.arange(len(table)) / len(table)
    table["split"] = np.select([share < 0.6, share < 0.8], ["train", "validation"], "test")
    table.loc[table["split"] != table["split"].shift(fill_value="train"), "split"] = "embargo"
    return table
