"""The real raw logs as pandas reads them, by the rules that the paper and the files' README give: no line of
clickprompt/data/sources.

Each returns what `naive_prepare` reads, and {field: its values in the order of the source's tables}.
"""

import csv
import os
from functools import partial

import pandas as pd

AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
JOBS = """other|academic/educator|artist|clerical/admin|college/grad student|customer service|doctor/health care|executive/managerial
farmer|homemaker|K-12 student|lawyer|programmer|retired|sales/marketing|scientist|self-employed|technician/engineer
tradesman/craftsman|unemployed|writer"""


def movielens_1m(folder):
    read = partial(
        pd.read_csv,
        header=None,
        encoding="latin-1",
        dtype=str,
        keep_default_na=False,
        quoting=csv.QUOTE_NONE,
        engine="python",
        sep="::",
    )
    users = read(os.path.join(folder, "users.dat"), names=["User ID", "Gender", "Age", "Job", "Zipcode"])
    movies = read(os.path.join(folder, "movies.dat"), names=["Movie ID", "Title", "Film genre"])
    users["Gender"] = users["Gender"].map({"F": "female", "M": "male"})
    users["Age"] = users["Age"].map(AGES)
    users["Job"] = users["Job"].astype(int).map(dict(enumerate(JOBS.replace("\n", "|").split("|"))))
    assert movies["Title"].str.fullmatch(r".*\(\d{4}\)").all()
    movies["Title"] = movies["Title"].str[:-6].str.rstrip()
    movies["Film genre"] = movies["Film genre"].str.split("|").str[0]
    # one colon between: three columns of nothing
    ratings = pd.read_csv(
        os.path.join(folder, "ratings.dat"),
        sep=":",
        header=None,
        usecols=[0, 2, 4, 6],
        dtype={0: str, 2: str},
    )
    ratings.columns = ["user", "item", "stars", "timestamp"]
    ratings["timestamp"] *= 1_000_000
    ratings["label"] = (ratings["stars"] >= 4).astype(float).where(ratings["stars"] != 3)
    rows = ratings.drop(columns="stars").merge(
        users, how="left", left_on="user", right_on="User ID", validate="many_to_one"
    )
    rows = rows.merge(movies, how="left", left_on="item", right_on="Movie ID", validate="many_to_one")
    return rows, {name: list(pd.unique(table[name])) for table in (users, movies) for name in table}


def bookcrossing(folder):
    """Without a split key; of the tables, the values of users and books with a rating that is kept."""
    read = partial(
        pd.read_csv, sep=";", encoding="latin-1", escapechar="\\", dtype=str, keep_default_na=False
    )
    ratings, users, books = (
        read(os.path.join(folder, f"BX-{name}.csv")) for name in ("Book-Ratings", "Users", "Books")
    )
    users["Location"] = users["Location"].str.split(",").str[-1]  # the country
    users["Age"] = users["Age"].where(users["Age"] != "NULL", "")
    users["user"], books["item"] = users["User-ID"], books["ISBN"]
    users = users.rename(columns={"User-ID": "User ID"})[["user", "User ID", "Location", "Age"]]
    names = {"Book-Title": "Book title", "Book-Author": "Author", "Year-Of-Publication": "Publication year"}
    books = books.rename(columns=names)[["item", "ISBN", *names.values(), "Publisher"]]
    for table in (users, books):
        for name in table.columns[1:]:
            table[name] = table[name].str.strip().replace("", "unknown")
    ratings = ratings.rename(columns={"User-ID": "user", "ISBN": "item"})
    rows = ratings.merge(users, how="left", on="user", validate="many_to_one").merge(
        books, how="left", on="item", validate="many_to_one"
    )
    known = rows["User ID"].notna() & rows["ISBN"].notna()
    rows["label"] = (rows.pop("Book-Rating").astype(int) >= 5).astype(float).where(known)
    rows["timestamp"] = 0
    users, books = (
        users[users["user"].isin(rows["user"][known])],
        books[books["item"].isin(rows["item"][known])],
    )
    values = {name: pd.unique(table[name]) for table in (users, books) for name in table.columns[1:]}
    return rows, {name: [value for value in found if value != "unknown"] for name, found in values.items()}
