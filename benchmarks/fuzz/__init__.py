"""Damaged and hostile inputs, made from seeds: nothing may crash, hang, swell or pass unseen."""
