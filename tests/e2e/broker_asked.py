"""What the tests of the broker's verbs share."""

from __future__ import annotations

from transfer import api
from transfer.api import ErrorCode

NOT_FOUND = api.ApiError(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")
SKEWED = """
import datetime, sys, time
import botocore.auth, botocore.compat, botocore.signers

shift, real_time, real_now = float(sys.argv[1]), time.time, botocore.compat.get_current_datetime

def shifted(remove_tzinfo=True):
    return real_now(remove_tzinfo) + datetime.timedelta(seconds=shift)

time.time = lambda: real_time() + shift
for module in (botocore.auth, botocore.compat, botocore.signers):
    module.get_current_datetime = shifted

from transfer.broker.__main__ import main
sys.exit(main())
"""
