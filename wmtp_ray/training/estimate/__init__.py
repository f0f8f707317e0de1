"""Will a run fit, and how long will it take: closed forms over numbers, without torch, ray or an allocation."""
