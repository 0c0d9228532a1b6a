package main

import "fedattn/models"

// stagingShare is the part of the machine's memory that rows may take before they are placed.
const stagingShare = 8

// memoryShare is that part in bytes; 0, no limit, where the machine's memory cannot be asked for.
func memoryShare() int64 { return models.Total() / stagingShare }
