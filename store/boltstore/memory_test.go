package boltstore_test

func memoryChild(args []string) error { return nil }
