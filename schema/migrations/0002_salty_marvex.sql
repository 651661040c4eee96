ALTER TABLE `versions` ADD `fast_booting` integer DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE `versions` ADD `train_memory_bytes` integer;