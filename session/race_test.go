//go:build race

package session_test

// raceDetector: tests that do much of the same do less of it.
const raceDetector = true
