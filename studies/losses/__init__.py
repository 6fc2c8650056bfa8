"""TRL's DPO losses as data, and the settings that `trl dpo --config` accepts."""
