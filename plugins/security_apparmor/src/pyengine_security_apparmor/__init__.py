"""AppArmor: the profile of containers, generated, loaded and applied."""
