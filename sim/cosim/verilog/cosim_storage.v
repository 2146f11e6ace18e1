// The bytes of the memory: a read port and a write port of one word for AXI, and commands of the host.
//
// A command is pending while `host_request != host_done` and is done at the next clock edge:
//   0 peek  host_rdata = the word at host_address
//   1 poke  the bytes of host_wdata whose host_wstrb is set go to the word at host_address
//   2 load  the file memory_load.bin fills host_words words from host_address on; most significant byte of a word first
//   3 dump  host_words words from host_address on go to the file memory_dump.bin; least significant byte first
// The files are in the simulator's working directory. The byte orders are those of $fread and of the format %u.

`default_nettype none

module cosim_storage #(
    parameter DATA_BITS    = 128,
    parameter ADDRESS_BITS = 40,
    parameter BYTES        = 16777216,
    parameter INDEX_BITS   = $clog2(BYTES * 8 / DATA_BITS)
) (
    input  wire                    clk,

    input  wire                    read_enable,
    input  wire [INDEX_BITS-1:0]   read_index,
    output reg  [DATA_BITS-1:0]    read_data,  // one cycle after read_enable
    input  wire                    write_enable,
    input  wire [INDEX_BITS-1:0]   write_index,
    input  wire [DATA_BITS-1:0]    write_data,
    input  wire [DATA_BITS/8-1:0]  write_strb,

    input  wire                    host_request,
    output reg                     host_done,
    input  wire [1:0]              host_command,
    input  wire [ADDRESS_BITS-1:0] host_address,
    input  wire [31:0]             host_words,
    input  wire [DATA_BITS-1:0]    host_wdata,
    input  wire [DATA_BITS/8-1:0]  host_wstrb,
    output reg  [DATA_BITS-1:0]    host_rdata,
    output reg                     host_failed
);
    localparam WORDS = BYTES * 8 / DATA_BITS;
    localparam SHIFT = $clog2(DATA_BITS / 8);

    localparam [1:0] PEEK = 0, POKE = 1, LOAD = 2, DUMP = 3;

    reg [DATA_BITS-1:0] memory [0:WORDS-1];
    integer file, count, index;

    wire [31:0] host_index = {{(32-INDEX_BITS){1'b0}}, host_address[SHIFT +: INDEX_BITS]};

    initial begin
        for (index = 0; index < WORDS; index = index + 1) memory[index] = 0;
        host_done = 0;
        host_rdata = 0;
        host_failed = 0;
    end

    task write_bytes(input [INDEX_BITS-1:0] at, input [DATA_BITS-1:0] data, input [DATA_BITS/8-1:0] strb);
        integer lane;
        reg [DATA_BITS-1:0] word;
        begin
            word = memory[at];
            for (lane = 0; lane < DATA_BITS / 8; lane = lane + 1)
                if (strb[lane]) word[8*lane +: 8] = data[8*lane +: 8];
            memory[at] = word;
        end
    endtask

    task load;
        begin
            file = $fopen("memory_load.bin", "rb");
            host_failed = file == 0;
            if (file != 0) begin
                count = $fread(memory, file, host_index, host_words);
                host_failed = count != host_words * (DATA_BITS / 8);
                $fclose(file);
            end
        end
    endtask

    task dump;
        begin
            file = $fopen("memory_dump.bin", "wb");
            host_failed = file == 0;
            if (file != 0) begin
                for (index = 0; index < host_words; index = index + 1)
                    $fwrite(file, "%u", memory[host_index + index]);
                $fclose(file);
            end
        end
    endtask

    // Blocking assignments, because $fread makes them and one array must not mix both kinds. All accesses are in this
    // block: a read sees the word before a write of the same cycle.
    always @(posedge clk) begin
        if (read_enable) read_data <= memory[read_index];
        if (write_enable) write_bytes(write_index, write_data, write_strb);
        if (host_request != host_done) begin
            case (host_command)
                PEEK: host_rdata = memory[host_index];
                POKE: write_bytes(host_index[INDEX_BITS-1:0], host_wdata, host_wstrb);
                LOAD: load;
                DUMP: dump;
            endcase
            host_done <= host_request;
        end
    end
endmodule

`default_nettype wire
