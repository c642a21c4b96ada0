"""The suite that all engines share reports failed assertions as test files do."""

import pytest

pytest.register_assert_rewrite("engines.contract")
