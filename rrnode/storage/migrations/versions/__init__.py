"""One module per step; `rrnode.storage.schema.HEAD` names the newest."""
