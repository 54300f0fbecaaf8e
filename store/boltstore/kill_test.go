package boltstore_test

func killChild(args []string) error   { return nil }
func memoryChild(args []string) error { return nil }
