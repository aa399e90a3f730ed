"""The points of a sweep, which of them go on, and what it leaves. No ray here."""
