"""Words of the libraries beneath, which no message to a person has."""

import re

PYDANTIC = re.compile(
    r"(?i:pydantic|input should|should (be|have)|extra (inputs|forbidden)|not permitted|field required|"
    r"unable to|value error|validation error|valid (integer|number|string|boolean|list|tuple|dictionary)|"
    r"tuple|\bdict|\binstance\b|greater than|less than|function-|\[key\])"
    r"|[A-Z][a-z]+(Schema|Config|Rule|Table|Range)\b|\bNone\b|\bTrue\b|\bFalse\b"
)
